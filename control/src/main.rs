//! Placeholder of the workspace; replaced by its first real commit.
fn main() {}
