//! What is traced, and in whose trace.

use super::*;

const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn noted(tracer: &Tracer, traceparent: Option<&str>) {
    tracer.note(traceparent, Door::ForwardAuth, (false, Reason::TokenRevoked), Duration::from_micros(50));
}

#[test]
fn a_header_is_read_strictly() {
    let c = Context::read(SAMPLED).unwrap();
    assert_eq!((c.trace[0], c.parent[7], c.sampled), (0x4b, 0xb7, true));
    assert!(!Context::read(&SAMPLED.replace("-01", "-00")).unwrap().sampled);
    assert!(Context::read(&SAMPLED.replace("00-4b", "01-4b").replace("-01", "-01-more")).is_some());
    for bad in [
        "",
        "00",
        &SAMPLED.to_uppercase(),
        &SAMPLED.replace("00-4b", "ff-4b"),
        &SAMPLED.replace("-01", "-01-more"),
        &SAMPLED.replace("-01", "-1"),
        &SAMPLED.replace("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000"),
        &SAMPLED.replace("00f067aa0ba902b7", "0000000000000000"),
        &SAMPLED.replace("4b", "4"),
    ] {
        assert_eq!(Context::read(bad), None, "{bad}");
    }
}

#[test]
fn the_gateways_word_decides_and_else_the_share() {
    let (tracer, mut spans) = Tracer::new(0.0);
    noted(&tracer, None);
    noted(&tracer, Some("nonsense"));
    noted(&tracer, Some(&SAMPLED.replace("-01", "-00")));
    assert!(spans.receiver.try_recv().is_err());
    noted(&tracer, Some(SAMPLED));
    let span = spans.receiver.try_recv().unwrap();
    assert_eq!((span.trace[15], span.parent.unwrap()[0], span.id != [0; 8]), (0x36, 0, true));
    let (tracer, mut spans) = Tracer::new(1.0);
    noted(&tracer, None);
    assert_eq!(spans.receiver.try_recv().unwrap().parent, None);
}

#[test]
fn what_finds_no_room_is_counted() {
    let (tracer, spans) = Tracer::new(1.0);
    for _ in 0..WAITING + 3 {
        noted(&tracer, None);
    }
    assert_eq!(spans.dropped.load(std::sync::atomic::Ordering::Relaxed), 3);
}
