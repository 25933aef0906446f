//! `http.send`: answered from what is at hand, or noted as a question.

use std::cell::RefCell;

use regorus::Value;

use super::{Answer, Fault};
use crate::policy::http::{self, Answers, CallFault, Question};

thread_local! {
    static SESSION: RefCell<Option<Session>> = const { RefCell::new(None) };
}

struct Session {
    answers: Answers,
    question: Option<Box<Question>>,
}

/// Evaluates with these answers at hand; also tells the question that ended the evaluation, if one did.
pub(in crate::policy) fn asking<T>(
    answers: Answers,
    evaluation: impl FnOnce() -> T,
) -> (T, Option<Box<Question>>) {
    /// Nothing is left behind, also by a panic.
    struct Ends;
    impl Drop for Ends {
        fn drop(&mut self) {
            SESSION.with_borrow_mut(|s| *s = None);
        }
    }
    SESSION.with_borrow_mut(|s| *s = Some(Session { answers, question: None }));
    let ends = Ends;
    let value = evaluation();
    let question = SESSION.with_borrow_mut(|s| s.as_mut().and_then(|s| s.question.take()));
    drop(ends);
    (value, question)
}

/// Whether a call of this evaluation waits for its answer.
pub(super) fn is_asking() -> bool {
    SESSION.with_borrow(|s| s.as_ref().is_some_and(|s| s.question.is_some()))
}

/// `http.send(request)`
pub fn send(args: &[Value]) -> Answer {
    let Some(request) = args.first() else { return Err("operand 1 must be object".into()) };
    let quiet = http::is_quiet(request).map_err(Fault::Fatal)?;
    let given = |fault: CallFault| match (quiet, fault) {
        (true, fault) => Ok(http::failed(&fault)),
        (false, CallFault::Network(why) | CallFault::Internal(why)) => Err(Fault::Fatal(why)),
    };
    let call = match http::read(request) {
        Ok(call) => call,
        Err(why) => return given(CallFault::Internal(why)),
    };
    SESSION.with_borrow_mut(|session| match session {
        None => Err(Fault::Fatal(
            "nothing is sent here: it asks servers for real decisions alone; in tests, replace it (`with http.send as …`)"
                .to_owned(),
        )),
        // The evaluation is at its end: what comes after the first question would be asked of half an evaluation.
        Some(Session { question: Some(_), .. }) => Err(Fault::Asks),
        Some(Session { answers, question }) => match answers.of(request) {
            Some(Ok(answer)) => Ok(http::answered(answer, http::Decode::of(request))),
            Some(Err(fault)) => given(fault.clone()),
            None => {
                *question = Some(Box::new(Question { request: request.clone(), call }));
                Err(Fault::Asks)
            }
        },
    })
}
