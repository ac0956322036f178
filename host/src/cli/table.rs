//! Aligned columns. Every cell is escaped here, so that nothing a server says can move the cursor.

use super::text::shown;

/// What stands between two columns.
const GAP: &str = "  ";

/// A header line and one line for each row.
pub(super) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let lines: Vec<[String; N]> = std::iter::once(header.map(str::to_owned)).chain(rows.iter().cloned()).collect();
    columns(&lines).join("\n")
}

/// One line for each name and value.
pub(super) fn facts(rows: &[(&str, String)]) -> String {
    let lines: Vec<[String; 2]> = rows.iter().map(|(name, value)| [(*name).to_owned(), value.clone()]).collect();
    columns(&lines).join("\n")
}

/// The lines of a table without a header: columns are as wide as their widest cell, no line ends in spaces.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| shown(cell))).collect();
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join(GAP).trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_cells_escaped() {
        let rows = [["a".into(), "long cell".into()], ["ärger\x1b".into(), String::new()]];
        let text = table(["NAME", "VALUE"], &rows);
        assert_eq!(text, "NAME         VALUE\na            long cell\närger\\u{1b}");
    }

    #[test]
    fn facts_line_their_values_up() {
        assert_eq!(facts(&[("pid", "7".into()), ("version", "0.1.0".into())]), "pid      7\nversion  0.1.0");
    }
}
