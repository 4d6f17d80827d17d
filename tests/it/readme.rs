//! The README's program that uses the library is the one on the library's first page, which is compiled and run as a
//! doctest.

use std::fs;
use std::path::Path;

/// Most lines of the program that shows how the library is used.
const LINES_MAX: usize = 15;

#[test]
fn the_readme_shows_the_program_that_is_tested() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let [readme, library] = ["README.md", "src/lib.rs"].map(|name| fs::read_to_string(root.join(name)).unwrap());
    let shown: Vec<&str> =
        readme.lines().skip_while(|line| *line != "```rust").skip(1).take_while(|line| *line != "```").collect();
    // The fences of the doctest depend on features: they are attributes.
    let page =
        library.lines().filter_map(|line| line.strip_prefix("//!")).map(|line| line.strip_prefix(' ').unwrap_or(line));
    let program = page.skip_while(|line| !line.starts_with("use ")).take_while(|line| *line != "```");
    let tested: Vec<&str> = program.filter(|line| !line.starts_with("# ")).collect();
    assert_eq!(shown, tested);
    let lines = tested.iter().filter(|line| !line.is_empty()).count();
    assert!((1..=LINES_MAX).contains(&lines), "{lines} lines");
}
