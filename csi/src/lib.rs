//! The CSI services have their place here; none is served yet.
