//! Provisions fleets of machines: nodes get their files from each other first.
fn main() {}
