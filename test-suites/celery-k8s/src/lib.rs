//! Nothing: the suite is its tests.
