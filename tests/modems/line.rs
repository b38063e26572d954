//! Modems driven by lines of text: a gateway's and a node's, with the same driver, hear each other over the air.

mod faults;
mod moments;
mod scenarios;
mod world;
