//! HTTP for Engram.
