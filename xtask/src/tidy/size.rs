//! Files stay short: a room that one can see across.

/// Lines of non-test code that a file may have.
pub(super) const LIMIT: usize = 600;

/// Whether the rule is for this file: code of the product, not its tests.
pub(super) fn counts(path: &str) -> bool {
    let is_test = path.split('/').any(|part| matches!(part, "tests" | "benches" | "fuzz"))
        || path.ends_with("/tests.rs")
        || path.ends_with("_test.rs");
    !path.is_empty() && !is_test
}

/// Lines before the test module, which by convention ends a file.
pub(super) fn code_lines(text: &str) -> usize {
    text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_breaks_the_rule_and_a_long_test_does_not() {
        let long = "let x = 1;\n".repeat(LIMIT + 1);
        assert!(code_lines(&long) > LIMIT);
        let tested = format!("let x = 1;\n#[cfg(test)]\n{long}");
        assert_eq!(code_lines(&tested), 1);
        assert!(counts("crates/imn/src/main.rs"));
        assert!(!counts("crates/imn/tests/soak.rs"));
    }
}
