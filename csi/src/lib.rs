//! CSI services of Holdfast. Nothing is served yet: the crate holds the place that the workspace gives it.
