//! Device nodes and the rules of who may use them.
