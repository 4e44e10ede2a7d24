//! Three engines in one test.
