//! The kinds of steps, against stand-ins for the machine's programs.

mod places;
mod services;
mod tools;
mod users;
