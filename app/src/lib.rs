//! The program.

pub mod frame;
