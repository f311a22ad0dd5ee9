//! The `arauto` command.

fn main() {}
