//! `persona serve`: cameras in, anonymized streams out, for months.

pub mod config;
