// Everything works without this script; it adds filters, sorting and buttons to what the pages hold already.
"use strict";

// ---------------------------------------------------------------- buttons that copy

function copyButton(text, label) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  button.addEventListener("click", () => copy(button, text()));
  return button;
}

async function copy(button, text) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "copied";
  } catch {
    button.textContent = "select and copy by hand";
  }
  setTimeout(() => { button.textContent = label; }, 1500);
}

for (const block of document.querySelectorAll("pre.copied")) {
  const code = block.querySelector("code");
  block.append(copyButton(() => code.textContent, "copy"));
}

// ---------------------------------------------------------------- where there is no page

const missed = document.getElementById("nearest");
if (missed) {
  const links = new Map([...document.querySelectorAll("#all a")].map((link) => [link.textContent, link]));
  const asked = location.pathname.split("/").pop().replace(/\.html$/, "");
  missed.append("The nearest: ", links.get(nearest(asked, links.keys())).cloneNode(true), ".");
}

// ---------------------------------------------------------------- what a page to browse holds

const table = document.querySelector("table.browsed");
if (table) browse();

function browse() {
  const form = document.getElementById("filters");
  const search = document.getElementById("q");
  const boxes = [...form.querySelectorAll("input[type=checkbox]")];
  const sorts = [...table.querySelectorAll("[data-sort]")].map((head) => head.dataset.sort);
  const rows = [...table.tBodies[0].rows].map((element, place) => ({
    element,
    place,
    facets: JSON.parse(element.dataset.facets),
    // What a row says of itself is searched too, but isn't there twice.
    search: plain(`${element.dataset.search} ${element.querySelector("details p")?.textContent ?? ""}`),
    name: element.querySelector("th a").textContent,
  }));

  const known = new Map();
  for (const box of boxes) {
    if (!known.has(box.name)) known.set(box.name, new Set());
    known.get(box.name).add(box.value);
  }
  const views = new Map([...document.querySelectorAll("[data-view]")].map((view) => [view.id, view]));
  const [first] = views.keys();
  let state = read();

  // -------------------------------------------------------------- the address

  // {q, view, sort, chosen: facet -> set of words, unknown: [name, word] that mean nothing here and stay all the same}
  function read() {
    const found = { q: "", view: "", sort: "", chosen: new Map(), unknown: [] };
    for (const [name, value] of new URLSearchParams(location.search)) {
      if (name === "q") found.q = value;
      else if (name === "view" && views.has(value)) found.view = value;
      else if (name === "sort" && sorts.includes(value.replace(/^-/, ""))) found.sort = value;
      else if (!known.has(name)) found.unknown.push([name, value]);
      else for (const word of known.get(name).has(value) ? [value] : value.split(",")) {
        if (!word) continue;
        if (known.get(name).has(word) || isYears(name, word)) choose(found, name, word);
        else found.unknown.push([name, word]);
      }
    }
    // An anchor from elsewhere leads to a view, as it does without this script.
    if (!found.view && views.has(location.hash.slice(1))) found.view = location.hash.slice(1);
    return found;
  }

  function choose(into, name, word) {
    if (!into.chosen.has(name)) into.chosen.set(name, new Set());
    into.chosen.get(name).add(word);
  }

  function address() {
    const said = [];
    if (state.q) said.push(["q", state.q]);
    for (const [name, words] of state.chosen) {
      // Several words in one parameter are parted by commas, so a word with a comma stands alone.
      const short = [...words].filter((word) => !word.includes(","));
      if (short.length) said.push([name, short.join(",")]);
      for (const word of words) if (word.includes(",")) said.push([name, word]);
    }
    said.push(...state.unknown);
    if (state.sort) said.push(["sort", state.sort]);
    if (state.view && state.view !== first) said.push(["view", state.view]);
    const query = said.map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value).replaceAll("%2C", ",")}`);
    return location.pathname + (query.length ? `?${query.join("&")}` : "") + (views.has(location.hash.slice(1)) ? "" : location.hash);
  }

  // Typing replaces the address; a choice is a step that Back undoes.
  function go(step) {
    history[step ? "pushState" : "replaceState"](null, "", address());
    show();
  }

  // -------------------------------------------------------------- which rows

  function isYears(name, word) {
    return name === "year" && /^\d{4}-\d{4}$/.test(word);
  }

  function has(row, name, word) {
    const own = row.facets[name] || [];
    if (!isYears(name, word)) return own.includes(word);
    const [first, last] = word.split("-");
    return own.some((year) => first <= year && year <= last);
  }

  // Words in one facet mean "or", facets mean "and".
  function kept(row, but) {
    for (const [name, words] of state.chosen) {
      if (name !== but && ![...words].some((word) => has(row, name, word))) return false;
    }
    return plain(state.q).split(/\s+/).every((word) => matches(row.search, word));
  }

  function matches(text, word) {
    // Chinese has no spaces, and a number in brackets is a word of its own.
    if (!/^[\p{ASCII}\p{Script=Latin}]*$/u.test(word) || word.startsWith("[")) return text.includes(word);
    return (" " + text).includes(" " + word) || text.includes("-" + word);
  }

  function ordered() {
    const down = state.sort.startsWith("-");
    const by = state.sort.replace(/^-/, "");
    const value = (row) => row.element.dataset[by] ?? (by === "name" ? row.name : (row.facets[by] || []).join(" "));
    const sorted = [...rows].sort((a, b) => {
      if (!by) return a.place - b.place;
      const [x, y] = [value(a), value(b)];
      if (!x || !y) return (x ? 0 : 1) - (y ? 0 : 1) || a.place - b.place;
      return (down ? -1 : 1) * x.localeCompare(y, "en", { numeric: true }) || a.place - b.place;
    });
    return sorted;
  }

  // -------------------------------------------------------------- what is seen

  function show() {
    if (search.value !== state.q) search.value = state.q;
    for (const box of boxes) {
      box.checked = state.chosen.get(box.name)?.has(box.value) || false;
    }

    const here = new Set();
    for (const row of rows) {
      row.element.hidden = !kept(row);
      if (!row.element.hidden) here.add(row.element.dataset.key);
    }
    showViews(here);
    table.tBodies[0].append(...ordered().map((row) => row.element));
    document.getElementById("shown").textContent = `${here.size} of ${rows.length}`;
    for (const head of table.querySelectorAll("[data-sort]")) {
      const way = { [head.dataset.sort]: "ascending", [`-${head.dataset.sort}`]: "descending" };
      head.querySelector("button").ariaPressed = Boolean(way[state.sort]);
      head.ariaSort = way[state.sort] || "none";
    }

    // The count beside a word is what the list would hold with that word alone chosen in its facet.
    for (const name of known.keys()) {
      const others = rows.filter((row) => kept(row, name));
      for (const box of boxes.filter((one) => one.name === name)) {
        box.parentElement.querySelector("output").textContent = others.filter((row) => has(row, name, box.value)).length;
      }
    }
    chips();
  }

  // The views show the same rows: what is in none of them is out of the tree and the figures as well.
  function showViews(here) {
    for (const [name, view] of views) view.hidden = name !== (state.view || first);
    for (const link of document.querySelectorAll(".views a")) {
      link.ariaCurrent = link.hash === `#${state.view || first}` ? "true" : null;
    }
    for (const row of document.querySelectorAll("[data-row]")) row.hidden = !here.has(row.dataset.row);

    for (const group of document.querySelectorAll("[data-group]")) {
      const inside = new Set([...group.querySelectorAll("[data-row]:not([hidden])")].map((row) => row.dataset.row));
      group.hidden = !inside.size;
      group.querySelector("output").textContent = inside.size;
      if (state.q || state.chosen.size) group.open = true;
    }
  }

  function chips() {
    const place = document.getElementById("chips");
    place.replaceChildren();
    for (const [name, words] of state.chosen) {
      for (const word of words) chip(place, `${name}: ${word}`, () => { words.delete(word); if (!words.size) state.chosen.delete(name); });
    }
    for (const pair of state.unknown) {
      const drop = () => { state.unknown = state.unknown.filter((other) => other !== pair); };
      chip(place, `${pair[0]}: ${pair[1]}`, drop, doubt(...pair));
    }
    const number = state.unknown.length + [...state.chosen.values()].reduce((sum, words) => sum + words.size, 0);
    document.getElementById("chosen").textContent = number ? `(${number})` : "";
    if (number > 1) chip(place, "clear", () => { state.chosen.clear(); state.unknown = []; });
  }

  function chip(place, text, drop, doubted) {
    const whole = document.createElement("span");
    whole.className = doubted ? "chip unknown" : "chip";
    const button = document.createElement("button");
    button.type = "button";
    const words = document.createElement(doubted ? "s" : "span");
    words.textContent = text;
    button.append(words, text === "clear" ? "" : " ×");
    button.ariaLabel = text === "clear" ? "Clear all filters" : `Remove ${text}`;
    button.addEventListener("click", () => { drop(); go(true); search.focus(); });
    whole.append(button, doubted ? ` ${doubted}` : "");
    place.append(whole);
  }

  function doubt(name, word) {
    if (name === "view" || name === "sort") return `no such ${name}: ${word}; nearest: ${nearest(word, name === "view" ? views.keys() : sorts)}`;
    if (!known.has(name)) return `no such facet: ${name}; nearest: ${nearest(name, known.keys())}`;
    return `no such ${name}: ${word}; nearest: ${nearest(word, known.get(name))}`;
  }

  // -------------------------------------------------------------- what a reader does

  form.hidden = document.getElementById("tools").hidden = false;
  document.getElementById("facets").open = matchMedia("(min-width: 44rem)").matches && state.chosen.size > 0;
  form.addEventListener("submit", (event) => event.preventDefault());
  search.addEventListener("input", () => { state.q = search.value; go(false); });
  for (const box of boxes) {
    box.addEventListener("change", () => {
      const words = state.chosen.get(box.name) || new Set();
      if (box.checked) words.add(box.value);
      else words.delete(box.value);
      if (words.size) state.chosen.set(box.name, words);
      else state.chosen.delete(box.name);
      go(true);
    });
  }
  for (const head of table.querySelectorAll("[data-sort]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const name = head.dataset.sort;
      state.sort = state.sort === name ? `-${name}` : state.sort === `-${name}` ? "" : name;
      go(true);
    });
  }
  for (const link of document.querySelectorAll(".views a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      state.view = link.hash.slice(1);
      go(true);
    });
  }
  addEventListener("popstate", () => { state = read(); show(); });
  keys(document.getElementById("tools"), search);

  // -------------------------------------------------------------- the view to take along

  function view() {
    return ordered().filter((row) => !row.element.hidden).map((row) => {
      const { search: _, facets: __, ...told } = row.element.dataset;
      return { ...told, name: row.name, ...row.facets };
    });
  }

  function csv() {
    const own = Object.keys(rows[0].element.dataset).filter((name) => name !== "search" && name !== "facets");
    const columns = [...new Set([...own, "name", ...known.keys()])];
    return toCsv([columns, ...view().map((row) => columns.map((column) => row[column]))]);
  }

  document.getElementById("link").addEventListener("click", (event) => copy(event.target, location.href));
  document.getElementById("csv").addEventListener("click", () => save("condensery.csv", "text/csv", csv()));
  document.getElementById("json").addEventListener("click", () => save("condensery.json", "application/json", JSON.stringify(view(), null, 1)));
  show();
}

// ---------------------------------------------------------------- methods side by side

const compared = document.getElementById("compared");
if (compared) compare(4);

function compare(most) {
  const rows = new Map([...compared.tBodies[0].rows].map((row) => [row.dataset.key, row]));
  const heads = [...compared.tHead.rows[0].cells].map((cell) => cell.textContent);
  const beside = document.getElementById("beside");
  const picker = document.getElementById("picker");

  const selects = [...Array(most).keys()].map((place) => {
    const label = document.createElement("label");
    const select = document.createElement("select");
    select.append(new Option("none", ""), ...[...rows.keys()].map((key) => new Option(key, key)));
    select.addEventListener("change", () => go(selects.map((one) => one.value).filter(Boolean)));
    label.append(`${place + 1} `, select);
    picker.firstElementChild.append(label, " ");
    return select;
  });
  picker.hidden = false;
  picker.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("popstate", show);
  show();

  function asked() {
    return (new URLSearchParams(location.search).get("m") || "").split(",").filter(Boolean);
  }

  function go(keys) {
    history.pushState(null, "", location.pathname + (keys.length ? `?m=${keys.map(encodeURIComponent).join(",")}` : ""));
    show();
  }

  function show() {
    const keys = [...new Set(asked())];
    const known = keys.filter((key) => rows.has(key)).slice(0, most);
    selects.forEach((select, place) => { select.value = known[place] || ""; });

    const chips = document.getElementById("chips");
    chips.replaceChildren();
    for (const key of keys.filter((one) => !known.includes(one))) {
      const [struck, whole] = [document.createElement("s"), document.createElement("span")];
      whole.className = "chip unknown";
      struck.textContent = key;
      whole.append(struck, rows.has(key) ? ` no more than ${most} fit` : ` no such method; nearest: ${nearest(key, rows.keys())}`);
      chips.append(whole);
    }

    beside.hidden = !known.length;
    document.getElementById("every").hidden = Boolean(known.length);
    beside.replaceChildren(...(known.length ? [table(known)] : []));
  }

  // The cells of the whole table, turned: a row for each thing that is said, a column for each method.
  function table(keys) {
    const made = document.createElement("table");
    const body = made.createTBody();
    heads.forEach((head, place) => {
      const row = (place ? body : made.createTHead()).insertRow();
      row.append(headOf(head, place ? "row" : "col"));
      const cells = keys.map((key) => rows.get(key).cells[place]);
      const differ = place && new Set(cells.map((cell) => cell.textContent.trim())).size > 1;
      for (const cell of cells) {
        const copied = place ? document.createElement("td") : headOf("", "col");
        copied.append(...[...cell.childNodes].map((node) => node.cloneNode(true)));
        if (differ && !cell.querySelector(".run")) copied.className = "differs";
        row.append(copied);
      }
    });
    mark([...made.rows].map((row) => [...row.cells].slice(1)));
    return made;
  }

  function headOf(text, scope) {
    const head = document.createElement("th");
    head.scope = scope;
    head.textContent = text;
    return head;
  }

  // Each figure against the first method's on the same net in the same tier, by a word and a colour.
  function mark(lines) {
    for (const [reference, ...others] of lines) {
      const first = new Map([...reference.querySelectorAll(".run")].map((run) => [run.dataset.place, run.dataset]));
      for (const run of others.flatMap((cell) => [...cell.querySelectorAll(".run")])) {
        const told = first.has(run.dataset.place) ? against(run.dataset, first.get(run.dataset.place)) : "nothing to compare with";
        run.classList.add(told.replaceAll(" ", "-"));
        run.append(` (${told})`);
      }
    }
  }

  function against(one, other) {
    if (!one.std || !other.std) return "unknown";
    const apart = one.v - other.v;
    if (Math.abs(apart) <= Number(one.std) + Number(other.std)) return "within noise";
    return apart > 0 === (one.higher === "1") ? "better" : "worse";
  }
}

// ---------------------------------------------------------------- keys

// j and k move through the rows that are seen, whichever view they are in. Enter needs nothing of ours: what has the
// focus is a link.
function keys(place, search) {
  const row = "tr[data-key], [data-row]";
  const move = (by) => {
    const rows = [...document.querySelectorAll(row)].filter((one) => one.checkVisibility());
    const at = rows.indexOf(document.activeElement.closest(row));
    const next = rows[at < 0 ? 0 : Math.min(Math.max(at + by, 0), rows.length - 1)];
    next?.querySelector("a").focus();
  };
  const known = {
    "/": ["search", () => search.focus()],
    j: ["next row", () => move(1)],
    k: ["row before", () => move(-1)],
    Enter: ["open the method", null],
    "?": ["these keys", () => help.showModal()],
    Esc: ["close this", null],
  };
  const help = helpOf(known);
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "keys";
  button.addEventListener("click", () => help.showModal());
  place.append(" ", button);

  addEventListener("keydown", (event) => {
    const typing = /^(input|textarea|select)$/i.test(event.target.tagName) && event.target.type !== "checkbox";
    if (typing || help.open || event.ctrlKey || event.altKey || event.metaKey) return;
    const act = known[event.key]?.[1];
    if (!act) return;
    event.preventDefault();
    act();
  });
}

function helpOf(known) {
  const dialog = document.createElement("dialog");
  dialog.ariaLabel = "Keys";
  const list = document.createElement("dl");
  for (const [key, [does]] of Object.entries(known)) {
    const [term, name, said] = ["dt", "kbd", "dd"].map((tag) => document.createElement(tag));
    name.textContent = key;
    term.append(name);
    said.textContent = does;
    list.append(term, said);
  }
  const form = document.createElement("form");
  form.method = "dialog";
  const close = document.createElement("button");
  close.textContent = "close";
  form.append(close);
  dialog.append(list, form);
  document.body.append(dialog);
  return dialog;
}

// ---------------------------------------------------------------- files to take along

// Several values of one cell are parted by semicolons.
function toCsv(rows) {
  const cell = (value) => `"${[value ?? ""].flat().join("; ").replaceAll('"', '""')}"`;
  return rows.map((cells) => cells.map(cell).join(",")).join("\r\n") + "\r\n";
}

function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// ---------------------------------------------------------------- words

// Without accents, and in small letters.
function plain(text) {
  return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().trim();
}

function nearest(word, words) {
  return [...words].sort((a, b) => distance(word, a) - distance(word, b))[0];
}

function distance(a, b) {
  let before = [...Array(b.length + 1).keys()];
  for (let i = 1; i <= a.length; i += 1) {
    const now = [i];
    for (let j = 1; j <= b.length; j += 1) {
      now[j] = Math.min(before[j] + 1, now[j - 1] + 1, before[j - 1] + (a[i - 1] !== b[j - 1]));
    }
    before = now;
  }
  return before[b.length];
}
