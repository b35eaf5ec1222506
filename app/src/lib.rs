//! The program.

pub mod bench;
pub mod check;
pub mod element;
pub mod frame;
#[cfg(feature = "cuda")]
pub mod gpu;
pub mod models;
pub mod networks;
pub mod panel;
pub mod pipeline;
pub mod quantize;
mod rtsp;
pub mod run;
pub mod serve;
pub mod sheet;
pub mod tensorrt;
pub mod track;
pub mod update;
