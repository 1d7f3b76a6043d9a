// Log-in: an access code (an API key of the role `renter`), or a name and a password, is traded for a session cookie and
// then forgotten.

import { make, put, say } from "/console/dom.js";
import { ask } from "./api.js";
import { t } from "./language.js";
import { problemText } from "./parts.js";

export class LogIn {
  /** `note` says why the page asks; `enter` takes the session. */
  constructor({ note, enter }) {
    Object.assign(this, { note, enter });
    this.title = t("app.title");
  }

  draw(page) {
    this.code = make("input", {
      id: "code", type: "password", required: true, maxlength: "128", spellcheck: "false", autocapitalize: "none",
      autocomplete: "current-password", "aria-describedby": "login-problem login-hint",
    });
    this.user = make("input", {
      id: "user", type: "text", maxlength: "64", spellcheck: "false", autocapitalize: "none", autocomplete: "username",
      "aria-describedby": "user-hint",
    });
    this.problem = make("p", { id: "login-problem", class: "problem", role: "alert" });
    this.button = make("button", { type: "submit", class: "main wide" }, t("login.go"));
    const form = make("form", { class: "card login", autocomplete: "off" },
      make("img", { src: "/console/icon.svg", alt: "", width: "56", height: "56" }),
      make("h2", {}, t("login.title")),
      make("label", { for: "user" }, t("login.user")),
      this.user, make("p", { id: "user-hint", class: "hint" }, t("login.user_hint")),
      make("label", { for: "code" }, t("login.code")),
      this.code, this.problem, this.button,
      make("p", { id: "login-hint", class: "hint" }, t("login.hint")));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.logIn();
    });
    put(page, form);
    say(this.problem, this.note ?? "");
  }

  async logIn() {
    say(this.problem, "");
    this.button.disabled = true;
    try {
      const user = this.user.value.trim();
      const body = user === "" ? { api_key: this.code.value.trim() } : { user, password: this.code.value };
      const session = await ask("POST", "/v1/session", { body });
      this.code.value = "";
      await this.enter(session);
    } catch (problem) {
      put(this.problem, ...this.refusal(problem));
      this.code.select();
    } finally {
      this.button.disabled = false;
    }
  }

  refusal(problem) {
    if (problem.slug === "unauthenticated") return [t("login.unknown")];
    if (problem.slug === "forbidden") return [t("login.forbidden")];
    // Nothing is lost by logging in twice.
    if (problem.isUnsure) return [t("problem.unreachable")];
    return problemText(problem);
  }
}
