//! The server over real HTTPS on loopback.

mod access;
mod assigning;
mod content;
mod fixtures;
mod joining;
mod limits;
mod publishing;
mod reporting;
mod restart;
mod sites;
mod upkeep;
mod world;

use world::World;
