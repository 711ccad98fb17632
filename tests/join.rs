//! Into what runs already: `--join PID|DIR` and `--net ns:PATH`.

#[path = "join/network.rs"]
mod network;
#[path = "join/others.rs"]
mod others;
// Shared with tests/enter.rs, which uses all of it.
#[allow(dead_code)]
#[path = "enter/place.rs"]
mod place;
#[path = "join/refused.rs"]
mod refused;
#[path = "join/rights.rs"]
mod rights;
#[path = "join/running.rs"]
mod running;
