//! Escapes text from users for each markup: every character is shown as written, and none is
//! interpreted.
//!
//! `literal` functions are for names and labels. `prose` functions are for sentences, in which text
//! between backticks is code.

/// Escapes text for XML. A browser may open the file, so characters that are invalid in XML become
/// spaces.
pub fn xml(text: &str) -> String {
    escaped(text, |character, out| match character {
        '"' => out.push_str("&quot;"),
        '\u{fffe}' | '\u{ffff}' => out.push(' '),
        _ => out.push(character),
    })
}

pub fn markdown_literal(text: &str) -> String {
    escaped(text, |character, out| {
        if r"|*_\[]`~$".contains(character) {
            out.push('\\');
        }
        out.push(character);
    })
}

/// Replaces what every markup of the HTML family interprets; `own` writes the other characters.
fn escaped(text: &str, own: impl Fn(char, &mut String)) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            control if control.is_control() => out.push(' '),
            _ => own(character, &mut out),
        }
    }
    out
}

pub fn markdown_prose(text: &str) -> String {
    prose(text, markdown_literal, |code| {
        format!("`{}`", code.replace(char::is_control, " "))
    })
}

pub fn latex_prose(text: &str) -> String {
    prose(text, latex_literal, |code| {
        format!("\\texttt{{{}}}", latex_literal(code))
    })
}

/// Formats text outside and inside backticks; a backtick without a partner is an ordinary
/// character.
fn prose(text: &str, outside: fn(&str) -> String, inside: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, code)) = rest.split_once('`') {
        let Some((code, after)) = code.split_once('`') else {
            break;
        };
        out.push_str(&outside(before));
        out.push_str(&if code.is_empty() {
            outside("``")
        } else {
            inside(code)
        });
        rest = after;
    }
    out + &outside(rest)
}

/// Escapes text for pdfLaTeX in its default encoding, LuaLaTeX and XeLaTeX, for any place in a
/// table: without this, a row that begins with `[` or `*` would be an argument of the line end
/// before it.
pub fn latex_literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut before = ' ';
    for character in text.chars() {
        // `--`, `''` and `,,` are typeset as one character
        if character == before && matches!(character, '-' | '\'' | ',') {
            out.push_str("{}");
        }
        before = character;
        match character {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', character]),
            '[' | ']' | '*' => out.extend(['{', character, '}']),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '\\' => out.push_str("\\textbackslash{}"),
            '<' => out.push_str("\\textless{}"),
            '>' => out.push_str("\\textgreater{}"),
            '|' => out.push_str("\\textbar{}"),
            // the default encoding has this character only in its typewriter font
            '"' => out.push_str("{\\ttfamily\\char34}"),
            '`' => out.push_str("\\textasciigrave{}"),
            control if control.is_control() => out.push(' '),
            '−' => out.push_str("$-$"),
            ascii if ascii.is_ascii() => out.push(ascii),
            other => match maths(other) {
                Some(name) => out.push_str(&format!("$\\{name}$")),
                None if LATEX_KNOWS.contains(other) => out.push(other),
                // a glyph where the engine reads Unicode, the character's number elsewhere
                None => out.push_str(&format!(
                    "{{\\ifdefined\\Uchar {other}\\else\\texttt{{U+{:04X}}}\\fi}}",
                    u32::from(other)
                )),
            },
        }
    }
    out
}

/// Characters that pdfLaTeX of 2022 typesets in its default encoding without packages; found by
/// testing.
const LATEX_KNOWS: &str = "\u{a0}¡¢£¤¥¦§¨©ª¬®¯°±²³´µ¶·¸¹º¼½¾¿ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖ×ØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõö÷øùúûüýÿ\
    ĀāĂăĆćĈĉĊċČčĎďĒēĔĕĖėĚěĜĝĞğĠġĢģĤĥĨĩĪīĬĭİıĲĳĴĵĶķĹĺĻļĽľŁłŃńŅņŇňŌōŎŏŐőŒœŔŕŖŗŘřŚśŜŝŞşŠšŢţŤťŨũŪūŬŭŮůŰűŴŵŶŷŸŹźŻżŽž\
    ‐–—―‘’“”†‡•…‰€№™←↑→↓";

/// Returns the mathematical command for a letter or sign, if there is one.
fn maths(character: char) -> Option<&'static str> {
    Some(match character {
        '±' => "pm",
        '×' => "times",
        '≈' => "approx",
        '≠' => "neq",
        '≤' => "leq",
        '≥' => "geq",
        '≪' => "ll",
        '≫' => "gg",
        '∞' => "infty",
        '∈' => "in",
        '∼' => "sim",
        '√' => "surd",
        '∑' => "sum",
        '∏' => "prod",
        '∂' => "partial",
        '∇' => "nabla",
        '⋅' => "cdot",
        '↔' => "leftrightarrow",
        '⇒' => "Rightarrow",
        'Γ' => "Gamma",
        'Δ' | '∆' => "Delta",
        'Θ' => "Theta",
        'Λ' => "Lambda",
        'Ξ' => "Xi",
        'Π' => "Pi",
        'Σ' => "Sigma",
        'Φ' => "Phi",
        'Ψ' => "Psi",
        'Ω' => "Omega",
        'α' => "alpha",
        'β' => "beta",
        'γ' => "gamma",
        'δ' => "delta",
        'ε' => "varepsilon",
        'ζ' => "zeta",
        'η' => "eta",
        'θ' => "theta",
        'ι' => "iota",
        'κ' => "kappa",
        'λ' => "lambda",
        'μ' => "mu",
        'ν' => "nu",
        'ξ' => "xi",
        'π' => "pi",
        'ρ' => "rho",
        'σ' => "sigma",
        'τ' => "tau",
        'υ' => "upsilon",
        'φ' => "varphi",
        'χ' => "chi",
        'ψ' => "psi",
        'ω' => "omega",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commands that `latex_literal` may emit.
    const COMMANDS: [&str; 12] = [
        "textasciitilde",
        "textasciicircum",
        "textbackslash",
        "textless",
        "textgreater",
        "textbar",
        "textasciigrave",
        "ttfamily",
        "char",
        "texttt",
        "fi",
        "else",
    ];

    /// Returns true if LaTeX interprets nothing: all commands are known, groups are closed,
    /// ligatures are broken, and all other characters outside ASCII are known to be typeset.
    fn is_safe(tex: &str) -> bool {
        let mut depth = 0;
        let mut characters = tex.chars().peekable();
        let mut before = ' ';
        while let Some(character) = characters.next() {
            match character {
                '\\' => {
                    let mut name = String::new();
                    while let Some(letter) = characters.next_if(char::is_ascii_alphabetic) {
                        name.push(letter);
                    }
                    match name.as_str() {
                        "" if characters
                            .next()
                            .is_some_and(|escaped| "&%$#_{}".contains(escaped)) => {}
                        "ifdefined" => {
                            // skipped by every engine that does not support the character
                            while characters.next_if(|character| *character != ' ').is_some() {}
                            characters.nth(1);
                        }
                        known if COMMANDS.contains(&known) => {}
                        _ => return false,
                    }
                }
                '{' => depth += 1,
                '}' => depth -= 1,
                '&' | '%' | '#' | '_' | '~' | '^' | '<' | '>' | '|' | '"' | '`' => return false,
                '[' | ']' | '*' if before != '{' || characters.peek() != Some(&'}') => {
                    return false;
                }
                '-' | '\'' | ',' if before == character => return false,
                '$' => {
                    let name: String = characters
                        .by_ref()
                        .take_while(|character| *character != '$')
                        .collect();
                    if !name.starts_with('\\') && name != "-" {
                        return false;
                    }
                }
                other if !other.is_ascii() && !LATEX_KNOWS.contains(other) => return false,
                control if control.is_control() => return false,
                _ => {}
            }
            before = character;
        }
        depth == 0
    }

    #[test]
    fn no_character_is_acted_on_by_latex_wherever_it_stands() {
        let printable = (' '..='~')
            .chain('\u{a0}'..='\u{24f}')
            .chain('\u{370}'..='\u{3ff}')
            .chain('\u{2000}'..='\u{23ff}');
        for character in printable.chain("中😀\u{301}\u{200b}\u{fffd}".chars()) {
            for text in [
                format!("{character}"),
                format!("{character}{character}x"),
                format!("a {character}b{character}"),
            ] {
                let tex = latex_literal(&text);
                assert!(is_safe(&tex), "{text:?} became {tex:?}");
                assert!(
                    is_safe(&latex_prose(&text)),
                    "{text:?} became {:?}",
                    latex_prose(&text)
                );
            }
        }
        for dangerous in ["\\input{x}", "a & b", "[2pt]", "--", "%", "\\\\"] {
            assert!(!is_safe(dangerous), "the check lets {dangerous} pass");
        }
    }

    #[test]
    fn what_latex_is_given() {
        for (text, tex) in [
            ("[x]", "{[}x{]}"),
            ("* a", "{*} a"),
            ("--smoke", "-{}-smoke"),
            ("50 %", "50 \\%"),
            ("λ = 0.1", "$\\lambda$ = 0.1"),
            ("naïve", "naïve"),
            ("中", "{\\ifdefined\\Uchar 中\\else\\texttt{U+4E2D}\\fi}"),
            ("`a_b`", "\\textasciigrave{}a\\_b\\textasciigrave{}"),
        ] {
            assert_eq!(latex_literal(text), tex);
        }
        assert_eq!(
            latex_prose("recipe `a_b` and ` alone"),
            "recipe \\texttt{a\\_b} and \\textasciigrave{} alone"
        );
    }

    #[test]
    fn signs_and_greek_letters_have_their_commands() {
        let commands = "\
             ±pm ×times ≈approx ≠neq ≤leq ≥geq ≪ll ≫gg ∞infty ∈in ∼sim √surd ∑sum ∏prod ∂partial \
             ∇nabla ⋅cdot ↔leftrightarrow ⇒Rightarrow ΓGamma ΔDelta ∆Delta ΘTheta ΛLambda ΞXi ΠPi \
             ΣSigma ΦPhi ΨPsi ΩOmega αalpha βbeta γgamma δdelta εvarepsilon ζzeta ηeta θtheta ιiota \
             κkappa λlambda μmu νnu ξxi πpi ρrho σsigma τtau υupsilon φvarphi χchi ψpsi ωomega";
        for entry in commands.split_whitespace() {
            let mut characters = entry.chars();
            let sign = characters.next().expect("an entry is a sign and a name");
            let command = format!("$\\{}$", characters.as_str());
            assert_eq!(latex_literal(&sign.to_string()), command);
        }
    }

    #[test]
    fn what_markdown_and_xml_are_given() {
        assert_eq!(
            markdown_literal("a|b <i> &lt; `c` ~d~ $e$"),
            "a\\|b &lt;i&gt; &amp;lt; \\`c\\` \\~d\\~ \\$e\\$"
        );
        assert_eq!(
            markdown_prose("see `a_b|c` and d_e"),
            "see `a_b|c` and d\\_e"
        );
        assert_eq!(
            xml("a<b> & \"c\"\u{b}\u{ffff}"),
            "a&lt;b&gt; &amp; &quot;c&quot;  "
        );
    }
}
