//! The program itself, with tiny fake tools on PATH: what a user sees of wrong input and missing things.

mod bad_input;
mod machine;
mod world;
