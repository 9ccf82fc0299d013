//! The simulation, in the little time that a test may take.

mod controls;
mod smoke;
