//! Names and postal codes as networks and directories write them, made comparable.
//!
//! `ENI STATION S.P.A.` and `Eni Station Spa` are one name, `〒150-0002` and `1500002` one code. Nothing is guessed:
//! a name that is merely similar is another one.

/// Forms a company's name may end in; they say nothing about which station it is.
const LEGAL_FORMS: [&str; 34] = [
    "ab",
    "ag",
    "aps",
    "as",
    "bv",
    "co",
    "company",
    "corp",
    "corporation",
    "gmbh",
    "inc",
    "kft",
    "kg",
    "kk",
    "limited",
    "llc",
    "llp",
    "lp",
    "ltd",
    "mbh",
    "nv",
    "ohg",
    "oy",
    "plc",
    "pte",
    "sa",
    "sagl",
    "sarl",
    "sas",
    "sl",
    "snc",
    "spa",
    "sro",
    "srl",
];
const JAPANESE_LEGAL_FORMS: [&str; 4] = ["株式会社", "有限会社", "合同会社", "㈱"];

/// A name without what differs between spellings: case, accents, width, punctuation, spaces, legal forms at its end.
pub fn normal_name(text: &str) -> String {
    let mut plain = folded(text);
    for form in JAPANESE_LEGAL_FORMS {
        plain = plain.replace(form, " ");
    }
    // A dot joins (`s.p.a.`), everything else parts.
    let plain: String = plain.chars().filter(|c| *c != '.').collect();
    let mut words: Vec<String> = Vec::new();
    let mut was_letter = false;
    for word in plain.split(|c: char| !c.is_alphanumeric() && c != 'ー').filter(|word| !word.is_empty()) {
        // `s p a`: letters by themselves belong together.
        let is_letter = word.len() == 1 && word.as_bytes()[0].is_ascii_alphabetic();
        match words.last_mut() {
            Some(last) if is_letter && was_letter => last.push_str(word),
            Some(_) | None => words.push(word.to_owned()),
        }
        was_letter = is_letter;
    }
    while words.len() > 1 && words.last().is_some_and(|word| LEGAL_FORMS.contains(&word.as_str())) {
        words.pop();
    }
    words.concat()
}

/// A postal code without spaces, hyphens and a country's letter in front; of a US ZIP+4 the ZIP.
pub fn normal_postal_code(text: &str) -> String {
    let plain = folded(text);
    let plain = plain.trim_matches(|c: char| !c.is_alphanumeric());
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let plain = match plain.split_once('-') {
        Some((country, code)) if country.len() <= 2 && country.bytes().all(|b| b.is_ascii_lowercase()) => code,
        Some((zip, four)) if zip.len() == 5 && four.len() == 4 && is_digits(zip) && is_digits(four) => zip,
        Some(_) | None => plain,
    };
    plain.chars().filter(|c| c.is_alphanumeric()).collect()
}

/// Lower case, without accents, in the usual width.
fn folded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{ff01}'..='\u{ff5e}' => push_folded(&mut out, full_width_ascii(c)),
            '\u{3000}' => out.push(' '),
            '\u{ff66}'..='\u{ff9d}' => out.push(half_width_kana(c)),
            '\u{ff9e}' | '\u{3099}' => voice(&mut out, 1),
            '\u{ff9f}' | '\u{309a}' => voice(&mut out, 2),
            _ => push_folded(&mut out, c),
        }
    }
    out
}

fn full_width_ascii(c: char) -> char {
    // The range of the caller lies 0xfee0 above printable ASCII.
    char::from_u32(c as u32 - 0xfee0).unwrap_or(c)
}

/// U+FF66 to U+FF9D, in their order.
const KANA: &str =
    "ヲァィゥェォャュョッーアイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモヤユヨラリルレロワン";

fn half_width_kana(c: char) -> char {
    KANA.chars().nth((c as usize).saturating_sub(0xff66)).unwrap_or(c)
}

/// Joins a voicing mark (1 = dakuten, 2 = handakuten) with the kana before it, which is that far from its voiced form.
fn voice(out: &mut String, mark: u32) {
    let Some(last) = out.chars().last() else { return };
    let has_form = match mark {
        1 => ('カ'..='ト').contains(&last) || ('ハ'..='ホ').contains(&last) || ('か'..='ほ').contains(&last),
        _ => ('ハ'..='ホ').contains(&last) || ('は'..='ほ').contains(&last),
    };
    let voiced = if last == 'ウ' && mark == 1 { Some('ヴ') } else { char::from_u32(last as u32 + mark) };
    if let Some(voiced) = voiced.filter(|_| has_form || last == 'ウ') {
        out.pop();
        out.push(voiced);
    }
}

fn push_folded(out: &mut String, c: char) {
    for c in c.to_lowercase() {
        match c {
            'à' | 'á' | 'â' | 'ã' | 'ä' | 'å' | 'ā' | 'ă' | 'ą' => out.push('a'),
            'ç' | 'ć' | 'ĉ' | 'ċ' | 'č' => out.push('c'),
            'ď' | 'đ' | 'ð' => out.push('d'),
            'è' | 'é' | 'ê' | 'ë' | 'ē' | 'ĕ' | 'ė' | 'ę' | 'ě' => out.push('e'),
            'ĝ' | 'ğ' | 'ġ' | 'ģ' => out.push('g'),
            'ĥ' | 'ħ' => out.push('h'),
            'ì' | 'í' | 'î' | 'ï' | 'ĩ' | 'ī' | 'ĭ' | 'į' | 'ı' => out.push('i'),
            'ĵ' => out.push('j'),
            'ķ' => out.push('k'),
            'ĺ' | 'ļ' | 'ľ' | 'ŀ' | 'ł' => out.push('l'),
            'ñ' | 'ń' | 'ņ' | 'ň' => out.push('n'),
            'ò' | 'ó' | 'ô' | 'õ' | 'ö' | 'ø' | 'ō' | 'ŏ' | 'ő' => out.push('o'),
            'ŕ' | 'ŗ' | 'ř' => out.push('r'),
            'ś' | 'ŝ' | 'ş' | 'š' | 'ș' => out.push('s'),
            'ţ' | 'ť' | 'ŧ' | 'ț' => out.push('t'),
            'ù' | 'ú' | 'û' | 'ü' | 'ũ' | 'ū' | 'ŭ' | 'ů' | 'ű' | 'ų' => out.push('u'),
            'ŵ' => out.push('w'),
            'ý' | 'ÿ' | 'ŷ' => out.push('y'),
            'ź' | 'ż' | 'ž' => out.push('z'),
            'ß' => out.push_str("ss"),
            'æ' => out.push_str("ae"),
            'œ' => out.push_str("oe"),
            'þ' => out.push_str("th"),
            // Accents written after their letter.
            '\u{300}'..='\u{36f}' => {}
            // Apostrophes join: SANT'ILARIO, SANT ILARIO and SANTILARIO end up the same once spaces are gone.
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_one_name_are_one() {
        for (one, other) in [
            ("ENI STATION S.P.A.", "Eni Station Spa"),
            ("Eni Station S. p. A.", "Eni-Station"),
            ("Tankstelle Müller GmbH & Co. KG", "TANKSTELLE MULLER"),
            ("Sant'Ilario d’Enza", "SANT ILARIO D ENZA"),
            ("CANICATTÌ", "Canicatti\u{300}"),
            ("ＥＮＥＯＳ　渋谷", "eneos 渋谷"),
            ("株式会社ENEOS", "ENEOS"),
            ("ｶﾞｿﾘﾝｽﾀﾝﾄﾞ", "ガソリンスタンド"),
            ("Q 8", "Q8"),
        ] {
            assert_eq!(normal_name(one), normal_name(other), "{one} / {other}");
        }
        for (one, other) in [("AS 24", "24"), ("Shell Nord", "Shell Süd"), ("Esso", "Essor"), ("ハナ", "バナ")] {
            assert_ne!(normal_name(one), normal_name(other), "{one} / {other}");
        }
        assert_eq!(normal_name("GmbH"), "gmbh");
        assert_eq!(normal_name(" -.- "), "");
    }

    #[test]
    fn spellings_of_one_postal_code_are_one() {
        for (one, other) in [
            ("〒150-0002", "1500002"),
            ("１５０－０００２", "150 0002"),
            ("I-10121", "10121"),
            ("94111-1234", "94111"),
            ("sw1a 1aa", "SW1A1AA"),
        ] {
            assert_eq!(normal_postal_code(one), normal_postal_code(other), "{one} / {other}");
        }
        assert_ne!(normal_postal_code("10121"), normal_postal_code("10122"));
        assert_eq!(normal_postal_code(" - "), "");
    }

    proptest! {
        #[test]
        fn any_text_has_one_normal_form(text in ".{0,60}") {
            let once = normal_name(&text);
            prop_assert!(once.chars().all(|c| c.is_alphanumeric() || c == 'ー'), "{once:?}");
            let _ = normal_postal_code(&text);
        }

        #[test]
        fn case_and_spaces_do_not_matter(words in proptest::collection::vec("[a-z]{2,8}", 1..4)) {
            prop_assume!(!words.iter().any(|word| LEGAL_FORMS.contains(&word.as_str())));
            prop_assert_eq!(normal_name(&words.join("  ").to_uppercase()), words.concat());
        }
    }
}
