//! The format of uploaded request lines: what surrounds the body.
//!
//! In: a request's id, its body, the URL of its batch. Out: the bytes of the line. The body is copied verbatim.
//!
//! Invariants: the members of a format have a fixed order, so that the length of a line is known before it is written.

/// What a line of a batch file has around its body.
#[derive(Debug, PartialEq, Eq)]
pub struct LineFormat {
    /// The name under which a run records it.
    pub name: &'static str,
    /// The member that identifies the request.
    pub id: &'static str,
    /// The member that holds the request.
    pub body: &'static str,
    /// Whether each line has a `method` and a `url`. Missing ones are added during the upload.
    pub has_target: bool,
}

/// `custom_id` and `body`. Other members are uploaded unchanged.
pub static MINIMAL: LineFormat = LineFormat { name: "minimal", id: "custom_id", body: "body", has_target: false };

/// `custom_id`, `method`, `url` and `body`.
pub static FULL: LineFormat = LineFormat { name: "full", id: "custom_id", body: "body", has_target: true };

/// The `method` of every line.
pub const METHOD: &str = "POST";

impl LineFormat {
    /// The members with the request's method and URL, each followed by a comma.
    #[must_use]
    pub fn target(&self, url: &'static str) -> [[&'static str; 3]; 2] {
        if self.has_target { [[r#""method":""#, METHOD, r#"","#], [r#""url":""#, url, r#"","#]] } else { [[""; 3]; 2] }
    }

    /// Appends a line made of `id`, a JSON string with its quotes, and `body`.
    pub fn write(&self, id: &str, url: &'static str, body: &[u8], out: &mut Vec<u8>) {
        let mut put = |part: &str| out.extend_from_slice(part.as_bytes());
        [r#"{""#, self.id, r#"":"#, id, ","].into_iter().for_each(&mut put);
        self.target(url).as_flattened().iter().copied().for_each(&mut put);
        [r#"""#, self.body, r#"":"#].into_iter().for_each(&mut put);
        out.extend_from_slice(body);
        out.push(b'}');
    }

    /// The length of such a line without its body, in bytes; `id_bytes` is the length of the id.
    #[must_use]
    pub fn overhead_bytes(&self, id_bytes: usize, url: &'static str) -> usize {
        let target: usize = self.target(url).as_flattened().iter().map(|part| part.len()).sum();
        r#"{"":,"":}"#.len() + self.id.len() + id_bytes + target + self.body.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_length_is_predicted() {
        static BEDROCK: LineFormat =
            LineFormat { name: "bedrock", id: "recordId", body: "modelInput", has_target: false };
        for (format, line) in [
            (&MINIMAL, r#"{"custom_id":"a","body":{}}"#),
            (&FULL, r#"{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{}}"#),
            (&BEDROCK, r#"{"recordId":"a","modelInput":{}}"#),
        ] {
            let (mut out, url) = (Vec::new(), "/v1/embeddings");
            format.write(r#""a""#, url, b"{}", &mut out);
            assert_eq!(std::str::from_utf8(&out).unwrap(), line);
            assert_eq!(out.len(), format.overhead_bytes(3, url) + 2);
        }
    }
}
