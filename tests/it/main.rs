//! What Arauto promises, one module per promise.

mod config;
