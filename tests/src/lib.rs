//! End-to-end tests: real kernel, real servers, real clients, in namespaces of their own.
