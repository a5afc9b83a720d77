//! The unit's web pages: our own text in the real pages' frame.
//!
//! A client finds its way by field names, by the cells that the unit fills in, and by the page's length.
//! So these stand where they stand on a real C6 (offsets counted on its two `g1.html` pages); what is between them is
//! ours. Cells have a fixed width and are padded with spaces, so a page's length never changes.

/// Length of the page with the upload form, bytes (real C6, before and after an upload).
pub(super) const AUTHORISED_LEN: usize = 973;
/// Length of the login page, bytes (real C6, before and after a wrong password).
pub(super) const LOGIN_LEN: usize = 1078;
/// Width of the status cell, bytes (real C6).
const STATUS_WIDTH: usize = 118;
/// What `POST /ajax.xml` always answers, 68 bytes (node-red-contrib-komfovent, reverse.md).
pub(super) const AJAX: &[u8] =
    b"<?xml version=\"1.0\" encoding=\"windows-1252\"?>\r\n<V>\r\n\t<A>c6</A>\r\n</V>";

/// The language of the cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// What the documented texts are in.
    English,
    /// Guess: real units show such texts (their "wrong password" is known from one), the wording is ours.
    Polish,
    /// Guess: as Polish; has letters that are not ASCII.
    Lithuanian,
}

/// What the status cell says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// No upload yet.
    Idle,
    /// Controller and panel flashed.
    ControllerAndPanel,
    /// Controller flashed; no panel to flash.
    ControllerOnly,
    /// The controller was flashed, the panel was not.
    Mixed,
    /// The file was not taken; the text seen in practice.
    PanelError,
    /// The file was not taken; the text of the vendor's manual.
    FirmwareError,
    /// A text from a fault.
    Other(String),
}

/// Whether the login page shows its error text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoginError {
    Hidden,
    Shown,
}

struct Texts {
    label: &'static str,
    controller_done: &'static str,
    panel_done: &'static str,
    panel_error: &'static str,
    firmware_error: &'static str,
    wrong_password: &'static str,
    login: &'static str,
}

const ENGLISH: Texts = Texts {
    label: "Status:",
    controller_done: "Firmware uploaded successfully, device is restarting.",
    panel_done: "Panel firmware upload success: wait until finished.",
    panel_error: "Panel firmware upload error: incorrect file.",
    firmware_error: "Firmware upload error",
    wrong_password: "Incorrect password!",
    login: "Login",
};

const POLISH: Texts = Texts {
    label: "Stan:",
    controller_done: "Oprogramowanie wgrano poprawnie, urzadzenie uruchamia sie ponownie.",
    panel_done: "Wgrywanie panelu: czekaj do konca.",
    panel_error: "Nie wgrano panelu: niepoprawny plik.",
    firmware_error: "Nie wgrano oprogramowania",
    wrong_password: "Niepoprawne haslo!",
    login: "Zaloguj",
};

const LITHUANIAN: Texts = Texts {
    label: "Busena:",
    controller_done: "Programa ikelta sekmingai, irenginys paleidžiamas iš naujo.",
    panel_done: "Pultelio programa: palaukite pabaigos.",
    panel_error: "Pultelio programos klaida: netinkamas failas.",
    firmware_error: "Programos klaida",
    wrong_password: "Neteisingas slaptažodis!",
    login: "Prisijungti",
};

impl Language {
    fn texts(self) -> &'static Texts {
        match self {
            Self::English => &ENGLISH,
            Self::Polish => &POLISH,
            Self::Lithuanian => &LITHUANIAN,
        }
    }
}

impl Status {
    pub(super) fn text(&self, language: Language) -> String {
        let texts = language.texts();
        let label = texts.label;
        match self {
            Self::Idle => label.to_owned(),
            Self::ControllerAndPanel => format!("{label} {} {}", texts.controller_done, texts.panel_done),
            Self::ControllerOnly => format!("{label} {}", texts.controller_done),
            Self::Mixed => format!("{label} {} {}", texts.controller_done, texts.panel_error),
            Self::PanelError => format!("{label} {}", texts.panel_error),
            Self::FirmwareError => format!("{label} {}", texts.firmware_error),
            Self::Other(text) => text.clone(),
        }
    }
}

/// Whether the status cell can hold `text`: short enough, encodable, and without markup.
pub(super) fn fits_status(text: &str) -> bool {
    let encodable = text
        .chars()
        .all(|letter| windows_1252(letter).is_some() && !letter.is_control());
    encodable && text.chars().count() <= STATUS_WIDTH && !text.contains(['<', '>', '&'])
}

/// The page after login: log out, choose a file, upload, and the status of the last upload.
pub(super) fn authorised(user: &str, status: &Status, language: Language) -> Vec<u8> {
    let mut page = Page::default();
    page.head();
    page.put("<style>form{margin:2em}label{float:right}table{background:#eee}</style>");
    page.at(
        261,
        "<a href=\"http://www.komfovent.com               \" target=\"_blank\">simulated unit</a>",
    );
    page.at(348, "<form class=\"l\" method=\"post\" action=\"/\"><label>");
    page.cell(user, 8);
    page.at(
        404,
        "<input name=\"4\" value=\"Logout\" type=\"submit\"></label></form>",
    );
    page.put("<form class=\"f\" method=\"post\" enctype=\"multipart/form-data\" onsubmit='st.textContent=");
    // Only a page's script ever says this: a client that looks for "Status:" anywhere in the page finds it first.
    page.at(581, "\"Status: uploading\"'><table><tr><td>");
    page.at(
        659,
        "<input type=\"file\" name=\"11111\" accept=\".bin,.mbin,.pbin,.rbin,.cfg\"></td></tr><tr><td>",
    );
    page.at(
        746,
        "<input type=\"submit\" id=\"bs\" value=\"Upload\"></td></tr><tr>",
    );
    page.at(804, "<td id=\"st\">");
    page.cell(&status.text(language), STATUS_WIDTH);
    page.put("</td></tr></table></form></body></html>");
    page.end(AUTHORISED_LEN)
}

/// The page without a session. The error text is always there, and hidden unless a login just failed.
pub(super) fn login(error: LoginError, language: Language) -> Vec<u8> {
    let texts = language.texts();
    let mut page = Page::default();
    page.head();
    page.put("<style>form{margin:15em auto;width:20em;text-align:center}p{color:red}</style>");
    page.at(572, "<form method=\"POST\">");
    page.at(
        592,
        "<a href=\"http://www.komfovent.com               \" target=\"_blank\">simulated</a>",
    );
    page.at(679, "<div><p style=\"display:");
    page.cell(if error == LoginError::Hidden { "none" } else { "" }, 6);
    page.put("\">");
    page.cell(texts.wrong_password, 24);
    page.put("</p></div><input type=\"text\" name=\"1\" value=\"user\" maxlength=\"7\">");
    page.at(
        800,
        "<input id=\"i_p\" type=\"password\" name=\"2\" value=\"               \">",
    );
    page.at(866, "<input id=\"b_s\" type=\"submit\" value=\"");
    page.cell(texts.login, 15);
    page.put("\"></form><script>for(let cell of[i_p,b_s])cell.value=cell.value.trim()</script>");
    page.at(1064, "</body></html>");
    page.end(LOGIN_LEN)
}

/// The settings page: main firmware (`mmf1`) and serial number (`c6sn`).
///
/// Guess: the ids are known, elements and widths are not; they would be read off a real `st.html`.
pub(super) fn settings(main_firmware: &str, serial: Option<&str>) -> Vec<u8> {
    let mut page = Page::default();
    page.head();
    page.put("</head><body><form method=\"post\" action=\"/\"><input name=\"4\" value=\"Logout\" type=\"submit\"></form>");
    page.put("<table><tr><td>Main firmware</td><td id=\"mmf1\">");
    page.cell(main_firmware, 24);
    page.put("</td></tr>");
    if let Some(serial) = serial {
        page.put("<tr><td>Serial number</td><td id=\"c6sn\">");
        page.cell(serial, 24);
        page.put("</td></tr>");
    }
    page.put("</table></body></html>");
    page.0
}

/// A page under construction, windows-1252.
#[derive(Default)]
struct Page(Vec<u8>);

impl Page {
    /// Up to the end of the title cell, the same on both real pages.
    fn head(&mut self) {
        self.put("<!DOCTYPE html><html><head><meta charset=\"windows-1252\"><title>");
        self.cell("Komfovent", 24);
        self.put("</title>");
    }

    fn put(&mut self, text: &str) {
        self.0
            .extend(text.chars().map(|letter| windows_1252(letter).unwrap_or(b'?')));
    }

    /// Goes on at `offset`; browsers ignore the spaces in between.
    fn at(&mut self, offset: usize, text: &str) {
        debug_assert!(
            self.0.len() <= offset,
            "the page is already past {offset}: {}",
            self.0.len()
        );
        self.0.resize(offset, b' ');
        self.put(text);
    }

    /// A text in a cell of fixed width: padded with spaces, cut where it does not fit.
    fn cell(&mut self, text: &str, width: usize) {
        let end = self.0.len() + width;
        self.put(text);
        self.0.resize(end, b' ');
    }

    fn end(self, len: usize) -> Vec<u8> {
        debug_assert_eq!(self.0.len(), len);
        self.0
    }
}

/// One byte of windows-1252: Latin-1 and the few letters that the texts above need besides.
fn windows_1252(letter: char) -> Option<u8> {
    match letter {
        '€' => Some(0x80),
        'Š' => Some(0x8A),
        'Ž' => Some(0x8E),
        'š' => Some(0x9A),
        'ž' => Some(0x9E),
        '\u{80}'..='\u{9F}' => None,
        _ => u8::try_from(letter).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANGUAGES: [Language; 3] = [Language::English, Language::Polish, Language::Lithuanian];
    const STATUSES: [Status; 6] = [
        Status::Idle,
        Status::ControllerAndPanel,
        Status::ControllerOnly,
        Status::Mixed,
        Status::PanelError,
        Status::FirmwareError,
    ];

    #[test]
    fn no_text_changes_a_pages_length() {
        for language in LANGUAGES {
            for status in STATUSES {
                assert!(fits_status(&status.text(language)), "{status:?} in {language:?}");
                assert_eq!(authorised("user", &status, language).len(), 973);
            }
            assert_eq!(login(LoginError::Hidden, language).len(), 1078);
            assert_eq!(login(LoginError::Shown, language).len(), 1078);
        }
        assert_eq!(
            authorised("", &Status::Other("x".repeat(200)), Language::English).len(),
            973
        );
        assert_eq!(
            authorised("overlong user", &Status::Idle, Language::English).len(),
            973
        );
    }

    #[test]
    fn the_english_texts_have_the_documented_lengths() {
        let len = |status: Status| status.text(Language::English).len();
        assert_eq!(len(Status::Idle), 7);
        assert_eq!(len(Status::ControllerAndPanel), 113);
        assert_eq!(len(Status::ControllerOnly), 61);
        assert_eq!(len(Status::PanelError), 52);
    }

    #[test]
    fn the_status_cell_is_framed_as_on_the_real_page() {
        let page = authorised("user", &Status::ControllerOnly, Language::English);
        assert!(page[..816].ends_with(b"<td id=\"st\">"));
        assert!(page[816 + 118..].starts_with(b"</td>"));
        assert_eq!(page[816 + 118..].len(), 39);
    }

    #[test]
    fn lithuanian_is_not_utf_8() {
        let page = authorised("user", &Status::ControllerOnly, Language::Lithuanian);
        assert!(page.contains(&0x9E) && std::str::from_utf8(&page).is_err());
    }

    #[test]
    fn ajax_has_its_68_bytes() {
        assert_eq!(AJAX.len(), 68);
    }
}
