//! The program.

pub mod frame;
pub mod pipeline;
pub mod track;
