//! smoke
use anyhow::Result;
use portcullis_tests::World;

#[test]
fn smoke() -> Result<()> {
    let w = World::make()?;
    let (a, b) = (w.mint.hs256()?, w.mint.hs256()?);
    w.assert_passes(&a);
    w.daemon.revoke(&a)?;
    w.assert_refused(&a);
    w.assert_passes(&b);
    Ok(())
}
