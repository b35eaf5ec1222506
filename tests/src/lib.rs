//! Tests over the public interfaces.
