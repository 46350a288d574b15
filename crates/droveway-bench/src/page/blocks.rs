//! A report as blocks, written as HTML or as Markdown.

use crate::figures::Figure;
use std::fmt::Write as _;

/// A part of the report.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Block<'a> {
    Heading(String),
    Text(String),
    List(Vec<String>),
    Table(Table),
    Picture(&'a Figure),
}

/// Columns after the first are numbers.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Table {
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
    /// Columns of words, which stand at the left.
    pub(super) words: usize,
}

impl Table {
    pub(super) fn new(header: &[&str], words: usize) -> Self {
        let header = header.iter().map(|name| (*name).to_owned()).collect();
        Table { header, rows: Vec::new(), words }
    }
}

const STYLE: &str = "body{font:15px/1.5 sans-serif;color:#282828;max-width:1280px;margin:2em auto;padding:0 1em}\
h1{font-size:1.6em}h2{font-size:1.2em;margin-top:2em;border-bottom:1px solid #ddd}\
table{border-collapse:collapse;font-size:13px;margin:1em 0;display:block;overflow-x:auto}\
th,td{padding:3px 8px;text-align:right;border-bottom:1px solid #eee;white-space:nowrap}\
th{border-bottom:2px solid #bbb;font-weight:600}.w{text-align:left}\
figure{margin:2em 0}figcaption{color:#555;font-size:13px;max-width:70em}\
svg{max-width:100%;height:auto}";

pub(super) fn html(title: &str, blocks: &[Block<'_>]) -> String {
    let mut page = String::new();
    let title = escaped(title);
    let mut put = |text: std::fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "{text}");
    };
    put(format_args!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style></head><body>\n<h1>{title}</h1>"
    ));
    for block in blocks {
        match block {
            Block::Heading(text) => put(format_args!("<h2>{}</h2>", escaped(text))),
            Block::Text(text) => put(format_args!("<p>{}</p>", escaped(text))),
            Block::List(items) => {
                put(format_args!("<ul>"));
                for item in items {
                    put(format_args!("<li>{}</li>", escaped(item)));
                }
                put(format_args!("</ul>"));
            }
            Block::Table(table) => {
                put(format_args!("<table><tr>{}</tr>", cells("th", &table.header, table.words)));
                for row in &table.rows {
                    put(format_args!("<tr>{}</tr>", cells("td", row, table.words)));
                }
                put(format_args!("</table>"));
            }
            Block::Picture(figure) => put(format_args!(
                "<figure id=\"{}\"><h3>{}</h3>\n{}\n<figcaption>{}</figcaption></figure>",
                escaped(&figure.name),
                escaped(&figure.title),
                figure.svg.trim(),
                escaped(&figure.caption)
            )),
        }
    }
    put(format_args!("</body></html>"));
    page
}

fn cells(tag: &str, row: &[String], words: usize) -> String {
    let mut text = String::new();
    for (index, cell) in row.iter().enumerate() {
        let class = if index < words { " class=\"w\"" } else { "" };
        let _ = write!(text, "<{tag}{class}>{}</{tag}>", escaped(cell));
    }
    text
}

pub(super) fn markdown(title: &str, blocks: &[Block<'_>]) -> String {
    let mut page = String::new();
    let mut put = |text: std::fmt::Arguments<'_>| {
        let _ = writeln!(page, "{text}");
    };
    put(format_args!("# {title}"));
    for block in blocks {
        put(format_args!(""));
        match block {
            Block::Heading(text) => put(format_args!("## {text}")),
            Block::Text(text) => put(format_args!("{text}")),
            Block::List(items) => {
                for item in items {
                    put(format_args!("- {item}"));
                }
            }
            Block::Table(table) => {
                let line = |row: &[String]| {
                    let cells: Vec<String> =
                        row.iter().map(|cell| cell.replace('|', "\\|")).collect();
                    format!("| {} |", cells.join(" | "))
                };
                put(format_args!("{}", line(&table.header)));
                let rule = |(index, _): (usize, &String)| {
                    if index < table.words { "---" } else { "---:" }.to_owned()
                };
                let rules: Vec<String> = table.header.iter().enumerate().map(rule).collect();
                put(format_args!("{}", line(&rules)));
                for row in &table.rows {
                    put(format_args!("{}", line(row)));
                }
            }
            Block::Picture(figure) => put(format_args!(
                "### {}\n\n![{}](figures/{}.svg)\n\n{}",
                figure.title, figure.title, figure.name, figure.caption
            )),
        }
    }
    page
}

/// Text that ends no element and no attribute.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}
