"use strict";
(() => {
  const MISSING = new Set(["", "–"]);
  const announcement = document.getElementById("announcement");
  const words = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  function compared(a, b, numeric, sign) { // cells; those of numbers have them, units resolved, as data
    const [x, y] = [a, b].map((cell) => cell.textContent.trim());
    if (MISSING.has(x) || MISSING.has(y)) return MISSING.has(x) - MISSING.has(y); // at the end in either direction
    return sign * (numeric ? Number(a.dataset.sort) - Number(b.dataset.sort) : words.compare(x, y));
  }

  function sort(header) {
    const table = header.closest("table");
    const column = header.cellIndex;
    const direction = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    const sign = direction === "ascending" ? 1 : -1;
    const numeric = header.classList.contains("number");
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => compared(a.cells[column], b.cells[column], numeric, sign));
    table.tBodies[0].append(...rows);
    for (const other of header.parentElement.cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", direction);
    announcement.textContent = `sorted by ${header.textContent.trim()}, ${direction}`;
  }

  // A page that is opened from disk may be refused the clipboard, or have none.
  function copyBySelection(text) {
    const field = document.createElement("textarea");
    field.value = text;
    field.setAttribute("readonly", "");
    field.style.cssText = "position: fixed; inset: 0 auto auto 0; opacity: 0";
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    return copied;
  }

  async function copy(button) {
    const text = document.getElementById(button.dataset.copy).textContent;
    let copied = false;
    try {
      await navigator.clipboard.writeText(text);
      copied = true;
    } catch {
      copied = copyBySelection(text);
      button.focus();
    }
    const label = button.dataset.label ??= button.textContent;
    button.textContent = copied ? "Copied" : "Could not copy";
    announcement.textContent = copied ? "copied" : "could not copy";
    setTimeout(() => { button.textContent = label; }, 1500);
  }

  document.addEventListener("click", (event) => {
    const header = event.target.closest("thead th");
    if (header) sort(header);
    const button = event.target.closest("button[data-copy]");
    if (button) copy(button);
  });

  // Marks the section that is being read; where there is no room for a column of contents, this is not seen.
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((each) => each.isIntersecting)) {
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.getAttribute("aria-labelledby"))?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "0px 0px -75% 0px" });
  document.querySelectorAll("main > section").forEach((section) => seen.observe(section));

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((details) => { details.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((details) => { details.open = false; }));
})();
