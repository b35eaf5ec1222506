//! What the tests over the public interfaces share: reading clips frame by frame, and judging whether a face was
//! changed. The program `exposure` of this package offers the judgement on anybody's own pair of clips. [`parsers`] are fed
//! with anything at all.

pub mod check;
pub mod clip;
pub mod exposure;
pub mod parsers;
