//! How a service of ours writes the rows of reply files, in each dialect.

/// What differs from one dialect to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowForm {
    /// What the row's id begins with.
    pub(crate) prefix: &'static str,
    /// Whether a row has every member, `null` where there is nothing to say, and a `request_id` in its response.
    pub(crate) has_every_member: bool,
}

impl RowForm {
    /// Together's: no more members than it needs.
    pub(crate) const SPARE: Self = Self { prefix: "br_", has_every_member: false };

    /// OpenAI's: every member.
    pub(crate) const FULL: Self = Self { prefix: "batch_req_", has_every_member: true };
}
