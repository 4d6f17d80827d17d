//! The rest of what generated prompts are made of: the tasks that ask for something, code, and oddities.
//!
//! In: nothing but this file. Out: the tables below, unescaped except where a field says that it is JSON.

/// One kind of request. Shares are relative to their sum.
pub(super) struct Task {
    pub(super) share: u32,
    /// The system prompt that all requests of this kind have in common; empty when there is none.
    pub(super) system: &'static str,
    /// How the first user message begins.
    pub(super) instruction: &'static str,
    /// How many messages follow the system prompt where there is room; odd, so that the user speaks last.
    pub(super) turns: usize,
    /// Whether code stands among the sentences.
    pub(super) code: bool,
    /// JSON: body fields that follow `messages` and `max_tokens`, each with its leading comma.
    pub(super) params: &'static str,
}

pub(super) const TASKS: &[Task] = &[
    Task {
        share: 24,
        system: "You answer customer mail. Be brief and kind, and never promise a date.",
        instruction: "Answer this message:\n\n",
        turns: 1,
        code: false,
        params: r#","temperature":0.7"#,
    },
    Task {
        share: 20,
        system: "",
        instruction: "Summarise the following text in three sentences.\n\n",
        turns: 1,
        code: false,
        params: "",
    },
    Task {
        share: 14,
        system: "You translate. Keep names, numbers and line breaks as they are.",
        instruction: "Translate into English:\n",
        turns: 1,
        code: false,
        params: r#","temperature":0,"seed":7"#,
    },
    Task {
        share: 12,
        system: "Reply with one word: \"billing\", \"delivery\", \"defect\" or \"other\".",
        instruction: "Ticket:\t",
        turns: 1,
        code: false,
        params: r#","temperature":0.0,"stop":["\n","\n\n"]"#,
    },
    Task {
        share: 12,
        system: "You review code. Name the bug first, then show the smallest patch.",
        instruction: "What is wrong here?\n\n",
        turns: 1,
        code: true,
        params: r#","temperature":0.2,"top_p":0.95"#,
    },
    Task {
        share: 10,
        system: "You are a patient tutor. Ask before you explain.",
        instruction: "I don't understand this part:\n",
        turns: 5,
        code: false,
        params: r#","temperature":1.0,"repetition_penalty":1.05"#,
    },
    Task {
        share: 5,
        system: "Extract what is asked for. Reply with JSON only.",
        instruction: "Who did what, and when?\n\n",
        turns: 1,
        code: false,
        params: concat!(
            r#","response_format":{"type":"json_schema","json_schema":{"name":"event","schema":{"type":"object","#,
            r#""properties":{"who":{"type":"string"},"what":{"type":"string"},"when":{"type":["string","null"]}},"#,
            r#""required":["who","what","when"]}}}"#
        ),
    },
    Task {
        share: 3,
        system: "You may look up an order before you answer.",
        instruction: "Where is my order?\n",
        turns: 3,
        code: false,
        params: concat!(
            r#","tools":[{"type":"function","function":{"name":"lookup_order","description":"Find an order by its number.","#,
            r#""parameters":{"type":"object","properties":{"number":{"type":"integer"}},"required":["number"]}}}],"#,
            r#""tool_choice":"auto""#
        ),
    },
];

/// Put between sentences now and then: what real text has that breaks careless readers of JSONL.
pub(super) const ODDITIES: &[&str] = &[
    "👩🏽‍💻",
    "👨‍👩‍👧‍👦",
    "🏳️‍🌈 🇪🇺",
    "❤️",
    "\u{2028}",
    "\u{2029}",
    "\u{85}",
    "\u{a0}—\u{a0}",
    "cafe\u{301} ≠ café",
    "\"so-called\"",
    r"C:\Users\new\table.txt",
    r"\\server\share",
    "id\tname\tprice\n17\tlamp\t€ 39,90",
    "\r\n",
    "</script><!-- & -->",
    "∑ᵢ xᵢ² ≤ 10⁻³",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "\u{8}\u{c}\u{1b}[0m\u{7f}",
];

pub(super) const CODE: &[&str] = &[
    "```python\ndef mean(values):\n    total = 0\n    for v in values:\n        total += v\n    return total / len(values) if values else None\n```\n",
    "```rust\nfn first_word(s: &str) -> &str {\n    s.split(' ').next().unwrap_or(\"\")\n}\n```\n",
    "```sql\nSELECT name, count(*) AS n\nFROM orders\nWHERE state <> 'paid' AND note LIKE '%\\_late'\nGROUP BY name;\n```\n",
    "```js\nconst re = /^\\d{3}-\\d{4}$/;\nconsole.log(`${name}:\\t${re.test(phone) ? \"ok\" : \"bad\"}`);\n```\n",
    "```make\nall: main.o\n\tcc -o \"$(OUT)\" main.o\n```\n",
    "```json\n{\"path\": \"C:\\\\logs\\\\a.txt\", \"tags\": [\"a\", \"\\u00e9\"], \"size\": null}\n```\n",
];
