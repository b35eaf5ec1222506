//! The program.

pub mod element;
pub mod frame;
pub mod networks;
pub mod pipeline;
pub mod track;
