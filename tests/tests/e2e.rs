//! The whole product on real traffic: each test's name says what holds.

mod e2e {
    mod smoke;
}
