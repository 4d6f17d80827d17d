//! The relevant members of a reply, wherever its service puts them, by the [names](ReplyNames) of its dialect.
//!
//! In: a line, [scanned](crate::json::scanner) or as a [`Tree`]. Out: its [`Parts`].
//!
//! ```text
//! {"custom_id", "response": {"status_code", "body": {"usage", "error"}, "error"}, "error"}     OpenAI, Together
//! {"custom_id", "response": {"usage", …}}                                                      Nebius: a bare answer
//! {"custom_id", "result": {"type", "message": {"usage", …}, "error"}}                          Anthropic
//! ```
//!
//! `errors` is accepted wherever `error` is.
//!
//! Invariants: all ways to read a line find the same parts.

use std::borrow::Cow;

use crate::json::marks::Marks;
use crate::json::scanner::Scanner;
use crate::json::tree::{Members, Raw, Scalar, Tree};
use crate::model::reply::Usage;

/// The names of those members of a reply that differ between dialects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyNames {
    /// Identifies the request.
    pub id: &'static str,
    /// Holds the answer, with or without a status around it.
    pub response: &'static str,
    /// Holds the token counts, in the answer.
    pub usage: &'static str,
    /// The prompt tokens; the first one present counts.
    pub prompt: [&'static str; 2],
    /// The completion tokens; the first one present counts.
    pub completion: [&'static str; 2],
}

impl ReplyNames {
    /// Those of nearly all services. Chat completions count prompt and completion tokens; messages and responses count
    /// input and output tokens.
    pub const COMMON: Self = Self {
        id: "custom_id",
        response: "response",
        usage: "usage",
        prompt: ["prompt_tokens", "input_tokens"],
        completion: ["completion_tokens", "output_tokens"],
    };
}

/// The members of a reply, including those without content (see [`Tree::has_content`]).
///
/// The structs are nested without options around them, so that a scan fills in fields as it finds them.
#[derive(Debug)]
pub(crate) struct Parts<'l, T> {
    pub(crate) id: Option<ReplyId<'l, T>>,
    pub(crate) response: Response<T>,
    pub(crate) result: RowResult<T>,
    /// `error` and `errors`.
    errors: [Option<T>; 2],
}

/// The request that a reply answers: `custom_id`.
#[derive(Debug)]
pub(crate) struct ReplyId<'l, T> {
    /// The value as it is in the reply.
    pub(crate) raw: T,
    pub(crate) text: Cow<'l, str>,
    /// Whether it is a string: some services turn ids that look like numbers into numbers.
    pub(crate) is_string: bool,
}

/// The member that holds the answer.
#[derive(Debug)]
pub(crate) struct Response<T> {
    /// The whole value, if present and not `null`.
    whole: Option<T>,
    pub(crate) status: Option<Status<T>>,
    body: Body<T>,
    errors: [Option<T>; 2],
    usage: Option<Usage>,
    /// Whether it is a bare answer if it has no body: it has more than a status.
    answers: bool,
}

/// `status_code`.
#[derive(Debug)]
pub(crate) struct Status<T> {
    /// The value as it is in the reply.
    pub(crate) raw: T,
    /// Its number, if it can be parsed.
    pub(crate) code: Option<u64>,
}

#[derive(Debug)]
struct Body<T> {
    whole: Option<T>,
    errors: [Option<T>; 2],
    usage: Option<Usage>,
}

/// What Anthropic's rows have in place of a response.
#[derive(Debug)]
pub(crate) struct RowResult<T> {
    pub(crate) kind: Option<T>,
    /// The message; or the result itself, if it has no type.
    answer: Option<T>,
    error: Option<T>,
    usage: Option<Usage>,
}

impl<T> Parts<'_, T> {
    const NONE: Self = Self { id: None, response: Response::NONE, result: RowResult::NONE, errors: [None, None] };
}

impl<T> Response<T> {
    const NONE: Self =
        Self { whole: None, status: None, body: Body::NONE, errors: [None, None], usage: None, answers: false };
}

impl<T> Body<T> {
    const NONE: Self = Self { whole: None, errors: [None, None], usage: None };
}

impl<T> RowResult<T> {
    const NONE: Self = Self { kind: None, answer: None, error: None, usage: None };
}

impl<'l, T: Tree<'l>> Parts<'l, T> {
    /// The parts of a line that is an object; `None` if it is not.
    pub(crate) fn of(line: T, names: &ReplyNames) -> Option<Self> {
        let wanted = [names.id, names.response, "result", "error", "errors"];
        let [custom_id, response, result, error, errors] = line.members(wanted)?.found;
        Some(Self {
            id: custom_id.and_then(ReplyId::of),
            response: response.map_or(Response::NONE, |response| Response::of(response, names)),
            result: result.map_or(RowResult::NONE, |result| RowResult::of(result, names)),
            errors: [error, errors],
        })
    }

    /// The status, if it can be parsed.
    pub(crate) fn status(&self) -> Option<u64> {
        self.response.status.as_ref()?.code
    }

    /// The first of the error members that has content.
    pub(crate) fn error(&self) -> Option<T> {
        let Self { response, result, errors, .. } = self;
        [errors, &[result.error, None], &response.errors, &response.body.errors]
            .into_iter()
            .flatten()
            .flatten()
            .find(|error| error.has_content())
            .copied()
    }

    /// Whether there is a possible answer.
    pub(crate) fn answers(&self) -> bool {
        match (self.response.whole, self.response.body.whole) {
            (_, Some(body)) => !body.is_null(),
            (Some(_), None) => self.response.answers,
            (None, None) => self.result.answer.is_some(),
        }
    }

    /// Whether there is anything in place of an answer.
    pub(crate) fn responds(&self) -> bool {
        self.response.whole.is_some() || self.result.answer.is_some()
    }

    /// The possible answer, or what is in its place; `null` only if the reply itself has it.
    pub(crate) fn body(&self) -> Option<T> {
        let Response { whole, status, body, errors, answers, .. } = &self.response;
        match (whole, body.whole) {
            (None, _) => self.result.answer,
            (Some(_), Some(body)) => Some(body),
            // A status alone is not a body.
            (Some(whole), None) => {
                (*answers || status.is_none() || errors.iter().any(Option::is_some)).then_some(*whole)
            }
        }
    }

    /// The token counts of the service.
    pub(crate) fn usage(&self) -> Usage {
        let usage = match (&self.response.whole, &self.response.body.whole) {
            (_, Some(_)) => self.response.body.usage,
            (Some(_), None) => self.response.usage,
            (None, None) => self.result.usage,
        };
        usage.unwrap_or_default()
    }
}

impl<'l, T: Tree<'l>> ReplyId<'l, T> {
    fn of(raw: T) -> Option<Self> {
        match raw.scalar() {
            Scalar::Text(text) => Some(Self { raw, text, is_string: true }),
            // As it is written: `1.0` may be the request "1.0", and is not 1.
            Scalar::Integer(_) | Scalar::Number(_) => Some(Self { raw, text: raw.written_number()?, is_string: false }),
            _ => None,
        }
    }
}

impl<'l, T: Tree<'l>> Status<T> {
    fn of(raw: T) -> Self {
        let code = match raw.scalar() {
            Scalar::Integer(status) => u64::try_from(status).ok(),
            Scalar::Text(status) => status.trim().parse().ok(),
            _ => None,
        };
        Self { raw, code }
    }
}

impl<'l, T: Tree<'l>> Response<T> {
    fn of(response: T, names: &ReplyNames) -> Self {
        let wanted = ["status_code", "request_id", "body", names.usage, "error", "errors"];
        let Some(Members { found, others }) = response.members(wanted) else { return Self::of_other(response) };
        let [status, _, body, usage, error, errors] = found;
        Self {
            whole: Some(response),
            status: status.map(Status::of),
            body: body.map_or(Body::NONE, |body| Body::of(body, names)),
            errors: [error, errors],
            usage: usage.map(|usage| usage_of(usage, names)),
            answers: others || usage.is_some(),
        }
    }

    /// A response that is not an object.
    fn of_other(response: T) -> Self {
        let whole = Some(response).filter(|response| !response.is_null());
        Self { whole, answers: response.has_content(), ..Self::NONE }
    }
}

impl<'l, T: Tree<'l>> Body<T> {
    fn of(body: T, names: &ReplyNames) -> Self {
        let [usage, error, errors] =
            body.members([names.usage, "error", "errors"]).map_or([None; 3], |members| members.found);
        Self { whole: Some(body), errors: [error, errors], usage: usage.map(|usage| usage_of(usage, names)) }
    }
}

impl<'l, T: Tree<'l>> RowResult<T> {
    fn of(result: T, names: &ReplyNames) -> Self {
        let Some(Members { found, others }) = result.members(["type", "message", "error"]) else {
            let answer = Some(result).filter(|result| result.has_content());
            return Self { kind: None, answer, error: None, usage: None };
        };
        let [kind, message, error] = found;
        let answer = if kind.is_some() {
            message.filter(|message| !message.is_null())
        } else {
            (others || message.is_some()).then_some(result)
        };
        let usage =
            answer.and_then(|answer| answer.members([names.usage])?.found[0]).map(|usage| usage_of(usage, names));
        Self { kind, answer, error, usage }
    }
}

fn usage_of<'l, T: Tree<'l>>(usage: T, names: &ReplyNames) -> Usage {
    let ([prompt, input], [completion, output]) = (names.prompt, names.completion);
    let counts = usage.members([prompt, completion, input, output]).map_or([None; 4], |members| members.found);
    let [prompt, completion, input, output] = counts.map(|count| count.map(Tree::count));
    Usage { prompt: prompt.or(input).unwrap_or(0), completion: completion.or(output).unwrap_or(0) }
}

/// The parts of a line, if the scanner accepts it.
pub(crate) fn scanned<'l>(line: &'l [u8], names: &ReplyNames, marks: &mut Marks) -> Option<Parts<'l, Raw<'l>>> {
    let text = simdutf8::basic::from_utf8(line).ok()?;
    Scanner::of(text, marks).whole(|scanner| scan(scanner, names))
}

/// The parts of the line that a scanner is at, if it accepts it, as it does most.
pub(crate) fn scan<'l>(scanner: &mut Scanner<'l, '_>, names: &ReplyNames) -> Option<Parts<'l, Raw<'l>>> {
    let mut parts = Parts::NONE;
    let (mut responded, mut resulted) = (false, false);
    scanner.members(|scanner, key| {
        match &*key.unescaped()? {
            key if key == names.id => keep_first(&mut parts.id, scanned_id(scanner)?),
            key if key == names.response && !responded => {
                responded = true;
                scan_response(scanner, names, &mut parts.response)?;
            }
            "result" if !resulted => {
                resulted = true;
                parts.result = RowResult::of(raw(scanner)?, names);
            }
            "error" => keep_first(&mut parts.errors[0], raw(scanner)?),
            "errors" => keep_first(&mut parts.errors[1], raw(scanner)?),
            _ => scanner.value()?,
        }
        Some(())
    })?;
    Some(parts)
}

/// An id, which is nearly always a string.
fn scanned_id<'l>(scanner: &mut Scanner<'l, '_>) -> Option<ReplyId<'l, Raw<'l>>> {
    if !scanner.follows(b'"') {
        return ReplyId::of(raw(scanner)?);
    }
    let mut string = None;
    let value = scanner.raw(|scanner| {
        string = Some(scanner.string()?);
        Some(())
    })?;
    Some(ReplyId { raw: Raw(value.as_bytes()), text: string?.unescaped()?, is_string: true })
}

fn scan_response<'l>(
    scanner: &mut Scanner<'l, '_>,
    names: &ReplyNames,
    response: &mut Response<Raw<'l>>,
) -> Option<()> {
    if !scanner.follows(b'{') {
        *response = Response::of_other(raw(scanner)?);
        return Some(());
    }
    let whole = scanner.raw(|scanner| {
        scanner.members(|scanner, key| {
            match &*key.unescaped()? {
                "status_code" => {
                    let status = raw(scanner)?;
                    response.status.get_or_insert_with(|| Status::of(status));
                }
                "body" if response.body.whole.is_none() => scan_body(scanner, names, &mut response.body)?,
                "body" | "request_id" => scanner.value()?,
                key if key == names.usage => keep_first(&mut response.usage, scanned_usage(scanner, names)?),
                "error" => keep_first(&mut response.errors[0], raw(scanner)?),
                "errors" => keep_first(&mut response.errors[1], raw(scanner)?),
                _ => {
                    response.answers = true;
                    scanner.value()?;
                }
            }
            Some(())
        })
    })?;
    response.whole = Some(Raw(whole.as_bytes()));
    response.answers |= response.usage.is_some();
    Some(())
}

fn scan_body<'l>(scanner: &mut Scanner<'l, '_>, names: &ReplyNames, body: &mut Body<Raw<'l>>) -> Option<()> {
    if !scanner.follows(b'{') {
        body.whole = Some(raw(scanner)?);
        return Some(());
    }
    let whole = scanner.raw(|scanner| {
        scanner.members(|scanner, key| {
            match &*key.unescaped()? {
                key if key == names.usage => keep_first(&mut body.usage, scanned_usage(scanner, names)?),
                "error" => keep_first(&mut body.errors[0], raw(scanner)?),
                "errors" => keep_first(&mut body.errors[1], raw(scanner)?),
                _ => scanner.value()?,
            }
            Some(())
        })
    })?;
    body.whole = Some(Raw(whole.as_bytes()));
    Some(())
}

fn scanned_usage(scanner: &mut Scanner<'_, '_>, names: &ReplyNames) -> Option<Usage> {
    if !scanner.follows(b'{') {
        scanner.value()?;
        return Some(Usage::default());
    }
    let ([prompt, input], [completion, output]) = (names.prompt, names.completion);
    let (known, mut counts) = ([prompt, completion, input, output], [None; 4]);
    scanner.members(|scanner, key| {
        let key = key.unescaped()?;
        let Some(place) = known.iter().position(|known| *known == key) else { return scanner.value() };
        keep_first(&mut counts[place], scanner.raw_value()?.parse().unwrap_or(0));
        Some(())
    })?;
    let [prompt, completion, input, output] = counts;
    Some(Usage { prompt: prompt.or(input).unwrap_or(0), completion: completion.or(output).unwrap_or(0) })
}

fn raw<'l>(scanner: &mut Scanner<'l, '_>) -> Option<Raw<'l>> {
    Some(Raw(scanner.raw_value()?.as_bytes()))
}

fn keep_first<T>(kept: &mut Option<T>, value: T) {
    kept.get_or_insert(value);
}
