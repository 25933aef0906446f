//! temporary
fn main() {
    let mut f = portcullis_tests::figures::Figures::default();
    portcullis_tests::bench::h2c::measure(&mut f, 7, 20000).unwrap();
}
