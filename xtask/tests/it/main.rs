//! The program itself, with tiny fake tools on PATH: what a user sees of wrong input and missing things.

mod api;
mod bad_input;
mod commands;
mod killed;
mod machine;
mod passes;
mod real;
mod signals;
mod simulated;
mod together;
mod variants;
mod world;
