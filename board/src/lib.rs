//! Front panel and privacy state.
