//! A compiled policy set and its evaluation.

use std::{
    num::NonZeroU32,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use regorus::{
    Engine, LimitError, Value,
    rvm::{
        program::Program,
        vm::{RegoVM, VmError},
    },
    utils::limits::ExecutionTimerConfig,
};

use super::{Decision, Input, PolicyError, pool::Pool};

/// Steps of work between looks at the clock: about a microsecond's.
const CLOCK_INTERVAL: NonZeroU32 = NonZeroU32::new(64).unwrap();

/// What evaluates the decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// regorus's virtual machine.
    Rvm,
    /// regorus's interpreter, several times slower, since the set uses what the machine has not.
    Interpreter {
        /// Why.
        reason: String,
    },
}

/// How far one evaluation may go.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub time: Duration,
    pub instructions: usize,
    pub strict: bool,
}

impl Limits {
    const fn timer(self) -> ExecutionTimerConfig {
        ExecutionTimerConfig { limit: self.time, check_interval: CLOCK_INTERVAL }
    }
}

impl EngineKind {
    /// Its name, in `status` and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Rvm => "rvm",
            Self::Interpreter { .. } => "interpreter",
        }
    }

    /// Why it is the interpreter, if it is.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Rvm => None,
            Self::Interpreter { reason } => Some(reason),
        }
    }
}

/// An immutable, compiled policy set. Many threads may evaluate it at once.
pub struct PolicySet {
    /// Made ready, cloned for each interpreter.
    prototype: Mutex<Engine>,
    program: Option<Arc<Program>>,
    kind: EngineKind,
    /// The decision's path, such as `data.portcullis.decision`.
    decision: String,
    data: Value,
    limits: Limits,
    hash: String,
    modules: usize,
    machines: Pool<RegoVM>,
    interpreters: Pool<Engine>,
}

impl PolicySet {
    #[allow(clippy::too_many_arguments, reason = "one caller, which names each")]
    pub(super) fn new(
        mut prototype: Engine,
        program: Option<Arc<Program>>,
        kind: EngineKind,
        decision: String,
        data: Value,
        limits: Limits,
        hash: String,
        modules: usize,
    ) -> Self {
        prototype.set_execution_timer_config(limits.timer());
        let (machines, interpreters) = (Pool::new(), Pool::new());
        let prototype = Mutex::new(prototype);
        Self { prototype, program, kind, decision, data, limits, hash, modules, machines, interpreters }
    }

    /// What evaluates the decision.
    pub const fn engine(&self) -> &EngineKind {
        &self.kind
    }

    /// SHA-256 over the set's files, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Number of modules, tests not counted.
    pub const fn modules(&self) -> usize {
        self.modules
    }

    /// Evaluates the decision. Every error must be answered with a denial.
    pub fn eval_decision(&self, input: &Input) -> Result<Decision, PolicyError> {
        Decision::read(&self.decide(input)?)
    }

    /// Evaluates the decision and gives it as the policy wrote it beside how it was read.
    pub fn eval_decision_value(&self, input: &Input) -> Result<(Decision, serde_json::Value), PolicyError> {
        let value = self.decide(input)?;
        let decision = Decision::read(&value)?;
        let json = serde_json::to_value(&value).map_err(|e| PolicyError::Failed(e.to_string()))?;
        Ok((decision, json))
    }

    /// Whether a path of `data` is the decision's.
    pub fn is_decision(&self, path: &[&str]) -> bool {
        self.decision.split('.').skip(1).eq(path.iter().copied())
    }

    /// The value of any path in `data`, rules and base documents alike; `None` where it is undefined.
    pub fn eval_path(&self, path: &[&str], input: &Input) -> Result<Option<serde_json::Value>, PolicyError> {
        let value =
            if self.is_decision(path) { self.decide(input)? } else { self.query(path, input, false)? };
        match value {
            Value::Undefined => Ok(None),
            value => serde_json::to_value(&value).map(Some).map_err(|e| PolicyError::Failed(e.to_string())),
        }
    }

    /// The builtin that fails when a path is evaluated, which otherwise makes its expression undefined.
    pub fn builtin_fault(&self, path: &[&str], input: &Input) -> Option<PolicyError> {
        self.query(path, input, true).err()
    }

    /// The decision's value.
    fn decide(&self, input: &Input) -> Result<Value, PolicyError> {
        match &self.program {
            Some(program) => self.run(program, input),
            None => self.interpret(input, self.limits.strict, |e| e.eval_rule(self.decision.clone())),
        }
    }

    /// Runs the program on a machine of the pool. One that failed or panicked is not used again.
    fn run(&self, program: &Arc<Program>, input: &Input) -> Result<Value, PolicyError> {
        let mut machine = match self.machines.take() {
            Some(machine) => machine,
            None => self.machine(program)?,
        };
        machine.set_input(input.0.clone());
        let value = contained(|| machine.execute())?.map_err(|e| match e {
            VmError::TimeLimitExceeded { .. } | VmError::InstructionLimitExceeded { .. } => {
                PolicyError::Timeout
            }
            e => PolicyError::Failed(first_line(&e.to_string())),
        })?;
        // No request's claims stay behind in an idle machine's input.
        machine.set_input(Value::Null);
        self.machines.give(machine);
        Ok(value)
    }

    fn machine(&self, program: &Arc<Program>) -> Result<RegoVM, PolicyError> {
        let mut machine = RegoVM::new();
        machine.load_program(program.clone());
        machine.set_data(self.data.clone()).map_err(|e| PolicyError::Failed(e.to_string()))?;
        machine.set_execution_timer_config(Some(self.limits.timer()));
        machine.set_max_instructions(self.limits.instructions);
        Ok(machine)
    }

    /// Evaluates a query for a path, as OPA does: a builtin that fails is undefined, unless `strict`.
    fn query(&self, path: &[&str], input: &Input, strict: bool) -> Result<Value, PolicyError> {
        let mut query = "data".to_owned();
        for segment in path {
            if segment.chars().any(char::is_control) {
                return Ok(Value::Undefined);
            }
            // A JSON string is a Rego string.
            query.push('[');
            query.push_str(&serde_json::Value::from(*segment).to_string());
            query.push(']');
        }
        self.interpret(input, strict, |engine| {
            let results = engine.eval_query(query, false)?.result;
            let first = results.into_iter().next().and_then(|r| r.expressions.into_iter().next());
            Ok(first.map_or(Value::Undefined, |e| e.value))
        })
    }

    /// Evaluates on an interpreter of the pool.
    fn interpret(
        &self,
        input: &Input,
        strict: bool,
        work: impl FnOnce(&mut Engine) -> anyhow::Result<Value>,
    ) -> Result<Value, PolicyError> {
        let mut engine = self
            .interpreters
            .take()
            .unwrap_or_else(|| self.prototype.lock().unwrap_or_else(PoisonError::into_inner).clone());
        engine.set_strict_builtin_errors(strict);
        engine.set_input(input.0.clone());
        let value = contained(|| work(&mut engine))?.map_err(|e| interpreter_error(&e))?;
        engine.set_input(Value::Null);
        self.interpreters.give(engine);
        Ok(value)
    }
}

/// Runs an evaluation; a panic in it is an error like any other.
fn contained<T>(evaluation: impl FnOnce() -> T) -> Result<T, PolicyError> {
    catch_unwind(AssertUnwindSafe(evaluation))
        .map_err(|_| PolicyError::Failed("the evaluation panicked".into()))
}

fn interpreter_error(error: &anyhow::Error) -> PolicyError {
    let text = error.to_string();
    if matches!(error.downcast_ref(), Some(LimitError::TimeLimitExceeded { .. }))
        || text.contains("exceeded time limit")
    {
        return PolicyError::Timeout;
    }
    let message = text.lines().rev().find_map(|l| l.strip_prefix("error: ")).unwrap_or(&text);
    PolicyError::Failed(first_line(message))
}

/// A message's first line, cut short: an error may quote the policy, but not at length.
fn first_line(text: &str) -> String {
    text.trim().lines().next().unwrap_or_default().chars().take(300).collect()
}

#[cfg(test)]
mod tests;
