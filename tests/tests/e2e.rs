//! The whole product on real traffic. Each test's name says what holds.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod e2e {
    mod admin_orders;
    mod adversary;
    mod api_keys;
    mod asking;
    mod attach;
    mod authzen;
    mod bound;
    mod bounds;
    mod bundles;
    mod clients;
    mod clocks;
    mod connections;
    mod crafted;
    mod cuts;
    mod decision_log;
    mod doors;
    mod edges;
    mod envoy;
    mod errors;
    mod fleet;
    mod fleet_keys;
    mod fleet_servers;
    mod forward;
    mod gate;
    mod grpc;
    mod h2c;
    mod h2c_wire;
    mod heads;
    mod interfaces;
    mod issuers;
    mod keys;
    mod lasting;
    mod limits;
    mod listeners;
    mod living;
    mod namespaces;
    mod nginx;
    mod oauth;
    mod opa;
    mod opaque;
    mod orders;
    mod outside;
    mod overload;
    mod places;
    mod plane;
    mod policies;
    mod posture;
    mod race;
    mod reactions;
    mod refusal;
    mod remote_admin;
    mod secrets;
    mod selectors;
    mod servers;
    mod shadow;
    mod shapes;
    mod shed;
    mod ssf;
    mod status_lists;
    mod traces;
    mod upgrades;
    mod usage;
}
