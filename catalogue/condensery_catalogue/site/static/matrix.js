// The page holds every cell already; this adds views, filters, one cell opened beside, and an address that says it all.
"use strict";

matrix(window.MATRIX, document.getElementById("matrix"));

function matrix(data, place) {
  const form = document.getElementById("choose");
  const panel = document.getElementById("cell");
  const row = document.getElementById("row");
  const keys = data.methods.map(([key]) => key);
  const families = new Map(data.methods);
  const nets = Object.keys(data.nets);
  const paired = [...form.elements.net.options].map((option) => option.value);
  const sections = [...document.querySelectorAll("section[data-kind]")];
  const sheet = document.head.appendChild(document.createElement("style"));
  const known = {
    view: ["nets", "then", "with"].slice(0, paired.length ? 3 : 1),
    net: paired,
    show: ["all", "run", "surprises"],
    row: keys,
    rows: [...new Set(families.values())],
    cols: [...new Set(families.values())],
  };
  const signs = new Map(data.means.map(([sign, outcome]) => [sign, outcome]));
  const means = new Map(data.means.map(([, outcome, said]) => [outcome, said]));
  // What ran, by "net kind row column".
  const ran = new Map();
  for (const net of nets) {
    for (const [kind, cells] of Object.entries(data.cells[net])) for (const cell of cells) {
      ran.set([net, kind, ...cell.slice(0, kind === "alone" ? 1 : 2).map((at) => keys[at])].join(" "), cell);
    }
  }
  let state = read();

  // ---------------------------------------------------------------- the address

  function read() {
    const found = { view: known.view[0], net: paired[0] || "", show: "all", row: "", cell: "", rows: new Set(), cols: new Set(), unknown: [] };
    for (const [name, value] of new URLSearchParams(location.search)) {
      if (name === "cell" && named(value)) found.cell = value;
      else if (!known[name]) found.unknown.push([name, value]);
      else for (const word of value.split(",")) {
        if (!known[name].includes(word)) found.unknown.push([name, word]);
        else if (name === "rows" || name === "cols") found[name].add(word);
        else found[name] = word;
      }
    }
    // An anchor from elsewhere: matrix.html#magnitude..lsq is a cell, #then-CNN a view.
    const anchor = decodeURIComponent(location.hash.slice(1));
    const section = sections.find((one) => one.id === anchor);
    if (section) goTo(found, section.dataset.kind, section.dataset.net);
    const alias = found.cell || !anchor ? null : named(`${paired[0]}:${anchor}`);
    if (alias) {
      found.cell = `${paired[0]}:${anchor}`;
      goTo(found, alias.kind, alias.net);
    }
    return found;
  }

  function goTo(found, kind, net) {
    found.view = kind === "alone" ? "nets" : kind;
    found.net = net || found.net;
  }

  // "CNN:magnitude", "CNN:magnitude..lsq", "CNN:magnitude+lsq"
  function named(text) {
    const [net, rest = ""] = text.split(/:(.*)/s);
    const kind = rest.includes("..") ? "then" : rest.includes("+") ? "with" : "alone";
    const methods = rest.split({ then: "..", with: "+", alone: "\n" }[kind]);
    const fits = nets.includes(net) && methods.length === (kind === "alone" ? 1 : 2) && methods.every((key) => families.has(key));
    return fits ? { net, kind, methods } : null;
  }

  function nameOf({ net, kind, methods }) {
    return `${net}:${methods.join({ then: "..", with: "+", alone: "" }[kind])}`;
  }

  function address() {
    const said = [];
    const usual = { view: known.view[0], net: paired[0] || "", show: "all", row: "", cell: "" };
    for (const name of ["view", "net", "show", "row"]) if (state[name] !== usual[name]) said.push([name, state[name]]);
    for (const name of ["rows", "cols"]) if (state[name].size) said.push([name, [...state[name]].join(",")]);
    said.push(...state.unknown);
    if (state.cell) said.push(["cell", state.cell]);
    const query = said.map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value).replace(/%2C|%3A/g, decodeURIComponent)}`);
    return location.pathname + (query.length ? `?${query.join("&")}` : "");
  }

  function go(changed) {
    Object.assign(state, changed);
    history.pushState(null, "", address());
    show();
  }

  // ---------------------------------------------------------------- which cells

  function section() {
    return sections.find((one) => (state.view === "nets" ? one.dataset.kind === "alone" : one.id === `${state.view}-${state.net}`));
  }

  function cellAt(one, tr, td) {
    const key = tr.cells[0].textContent;
    const other = one.querySelector("thead tr").cells[td.cellIndex].textContent;
    if (one.dataset.kind === "alone") return { net: other, kind: "alone", methods: [key] };
    if (key === other) return { net: one.dataset.net, kind: "alone", methods: [key] };
    return { net: one.dataset.net, kind: one.dataset.kind, methods: [key, other] };
  }

  function outcomeOf(text) {
    return signs.get(text[0] === "o" ? "ok" : text[0]);
  }

  function wanted(text) {
    if (state.show === "all") return true;
    return state.show === "run" ? /^(ok|~)/.test(text) : text.includes("!");
  }

  // Rows and columns of which nothing is wanted go; what isn't wanted in those that stay is left blank.
  function filter(one) {
    const trs = [...one.querySelector("tbody").rows];
    const heads = [...one.querySelector("thead tr").cells].slice(1).map((head) => head.textContent);
    const inColumns = (key) => one.dataset.kind === "alone" || !state.cols.size || state.cols.has(families.get(key));
    const columns = heads.map(inColumns);
    const used = heads.map(() => false);
    let count = 0;
    for (const tr of trs) {
      const key = tr.cells[0].textContent;
      let any = false;
      const inRows = !state.rows.size || state.rows.has(families.get(key));
      for (let at = 0; inRows && at < heads.length; at += 1) {
        const td = tr.cells[at + 1];
        const kept = columns[at] && wanted(td.textContent);
        td.classList.toggle("off", !kept);
        if (!kept) continue;
        any = used[at] = true;
        count += 1;
      }
      tr.hidden = !inRows || (!any && heads.length > 0);
    }
    const gone = heads.map((_, at) => at).filter((at) => !columns[at] || (state.show !== "all" && !used[at]));
    sheet.textContent = gone.length ? `${gone.map((at) => `#${CSS.escape(one.id)} tr > :nth-child(${at + 2})`).join(",")} { display: none }` : "";
    return count;
  }

  const seen = (cell) => cell && !cell.hidden && !cell.parentElement.hidden && getComputedStyle(cell).display !== "none" && !cell.classList.contains("off");

  // ---------------------------------------------------------------- what is seen

  function show() {
    const one = section();
    for (const other of sections) other.hidden = other !== one;
    for (const link of document.querySelectorAll(".views a")) {
      link.ariaCurrent = (link.dataset.view === "alone" ? "nets" : link.dataset.view) === state.view ? "true" : null;
    }
    colour(one);
    const count = filter(one);
    document.getElementById("shown").textContent = `${count} cells`;
    document.getElementById("on").hidden = state.view === "nets";
    form.elements.net.value = state.net;
    form.elements.show.value = state.show;
    for (const box of form.querySelectorAll("input")) box.checked = state[box.name].has(box.value);
    doubts();
    showList(one);
    showCell();
    rove(one.querySelector("[tabindex='0']:is(td, th, a)") || [...one.querySelectorAll("tbody td")].find(seen), false);
  }

  function colour(one) {
    if (one.dataset.coloured) return;
    one.dataset.coloured = "yes";
    const words = { o: "ok", "~": "worse", x: "fails", "-": "no", ".": "no" };
    for (const td of one.querySelectorAll("td")) td.classList.add(words[td.textContent[0]]);
    one.querySelector("table").setAttribute("role", "grid");
    for (const link of one.querySelectorAll("tbody a")) link.tabIndex = -1;
    // The cells take the focus, one of them at a time; the region need not.
    one.querySelector(".matrix").removeAttribute("tabindex");
  }

  function doubts() {
    const said = state.unknown.map(([name, word]) => known[name]
      ? `no such ${name}: ${word}; nearest: ${nearest(word, known[name])}`
      : name === "cell" ? `no such cell: ${word}` : `no such setting: ${name}; nearest: ${nearest(name, Object.keys(known))}`);
    document.getElementById("doubts").replaceChildren(...said.map((text) => Object.assign(document.createElement("span"), { className: "chip unknown", textContent: `${text} ` })));
  }

  // On a phone: one method, its cells grouped by what they came to.
  function showList(one) {
    const rows = [...one.querySelector("tbody").rows];
    const tr = rows.find((each) => each.cells[0].textContent === state.row) || rows.find((each) => !each.hidden) || rows[0];
    row.value = tr.cells[0].textContent;
    const groups = new Map();
    for (const td of [...tr.cells].slice(1).filter((cell) => !cell.classList.contains("off"))) {
      const outcome = outcomeOf(td.textContent);
      if (!groups.has(outcome)) groups.set(outcome, []);
      groups.get(outcome).push(td);
    }
    const ordered = [...means.keys()].filter((outcome) => groups.has(outcome));
    document.querySelector("#list div").replaceChildren(...ordered.flatMap((outcome) => {
      const cells = groups.get(outcome);
      const body = make("p", "", "outcome");
      for (const td of cells) {
        const cell = cellAt(one, tr, td);
        const button = make("button", `${cell.kind === "alone" ? cell.net : cell.methods[1]} ${td.textContent}`);
        button.type = "button";
        button.addEventListener("click", () => go({ cell: nameOf(cell) }));
        body.append(button);
      }
      return [make("h3", `${outcome} (${cells.length})`), body];
    }));
  }

  // ---------------------------------------------------------------- one cell, opened beside

  function make(name, text = "", className = "") {
    return Object.assign(document.createElement(name), { textContent: text, className });
  }

  function tdOf({ net, kind, methods }) {
    const one = sections.find((each) => (kind === "alone" ? each.id === "nets" : each.id === `${kind}-${net}`));
    const column = kind === "alone" ? nets.indexOf(net) : keys.indexOf(methods[1]);
    return one?.querySelector("tbody").rows[keys.indexOf(methods[0])]?.cells[column + 1];
  }

  function showCell() {
    const cell = state.cell && named(state.cell);
    const td = cell && tdOf(cell);
    for (const other of document.querySelectorAll("td[aria-selected]")) other.removeAttribute("aria-selected");
    const within = panel.contains(document.activeElement);
    panel.hidden = !td;
    place.classList.toggle("opened", Boolean(td));
    panel.replaceChildren();
    if (!td) return;
    td.setAttribute("aria-selected", "true");

    const { net, kind, methods } = cell;
    const close = make("button", "close (Esc)");
    close.type = "button";
    close.addEventListener("click", shut);
    const words = { alone: "", then: " then ", with: " with " }[kind];
    const outcome = outcomeOf(td.textContent);
    panel.append(close, make("h2", `${methods.join(words)} on ${net}`), make("p", `${outcome}: ${means.get(outcome)}`));
    panel.append(make("p", data.nets[net].on, "note"));

    const note = td.textContent.match(/^[-x](\d+)/);
    if (note) panel.append(make("p", data.notes[note[1] - 1].replaceAll("{A}", methods[0]).replaceAll("{B}", methods[1] || methods[0]), "reason"));
    const found = figures(cell);
    if (found) panel.append(found);
    const line = lineOf(cell);
    if (outcome !== "not run") panel.append(make("h3", "Run it"), copied(`condensery matrix --only '${net}: ${methods.join({ then: " -> ", with: " + ", alone: "" }[kind])}'`));
    panel.append(make("h3", "The composition"), copied(line));
    const links = make("p");
    links.append(link(`build.html?c=${encodeURIComponent(line)}`, "open in the builder"));
    for (const key of methods) links.append(" · ", link(`m/${key}.html`, key));
    if (kind === "then") {
      const back = { net, kind, methods: [...methods].reverse() };
      const button = make("button", `the other order: ${tdOf(back).textContent}`);
      button.type = "button";
      button.addEventListener("click", () => go({ cell: nameOf(back) }));
      links.append(" · ", button);
    }
    panel.append(links);
    // The button that led here is gone; whoever reads in the panel stays there.
    if (within) panel.focus();
  }

  function rowOf({ net, kind, methods }) {
    return ran.get([net, kind, ...methods].join(" ")) || (kind === "with" && ran.get([net, kind, ...[...methods].reverse()].join(" ")));
  }

  // [row, column of a pair, after, seeds, deviation, halves of a pair, bytes, seconds, made, line or 0, layers that died...]
  function figures(cell) {
    const found = rowOf(cell);
    if (!found) return null;
    const pair = cell.kind !== "alone";
    const [after, seeds, deviation] = found.slice(pair ? 2 : 1);
    const halves = pair ? found.slice(5, 7) : [];
    const [bytes, seconds, made, , ...died] = found.slice(pair ? 7 : 4);
    const net = data.nets[cell.net];
    const [commit, date, cpu, torch] = data.made[made];
    const named = found.slice(0, pair ? 2 : 1).map((at) => keys[at]);
    const told = [
      [net.figure, ""],
      ["before", net.before],
      ...halves.map((half, at) => [`${named[at]} alone`, half]),
      ["after", `${after} ± ${deviation}, ${seeds} seed${seeds === 1 ? "" : "s"}`],
      ["bytes", `${net.bytes.toLocaleString("en")} → ${bytes.toLocaleString("en")}`],
      ["seconds", `${seconds} of processor time`],
      ...(died.length ? [["died", died.join(", ")]] : []),
      ["made", `${date}, commit ${commit}, ${cpu}, torch ${torch}`],
    ];
    const list = document.createElement("dl");
    for (const [term, said] of told) list.append(make("dt", term), make("dd", said));
    return list;
  }

  // As site/matrix_page.py joins most of them.
  function lineOf(cell) {
    const { net, kind, methods } = cell;
    const found = rowOf(cell);
    const said = found?.[kind === "alone" ? 7 : 10];
    if (said) return said;
    if (kind === "alone") return methods[0];
    const order = found ? found.slice(0, 2).map((at) => keys[at]) : methods;
    const [one, other] = order.map((key) => lineOf({ net, kind: "alone", methods: [key] }));
    const last = other.split(" -> ").pop();
    if (kind === "then") return `${one} -> ${last}`;
    const [[, plain, braces = ""], [, beside, more = ""]] = [one, last].map((text) => text.match(/^(.*?)(\{.*\})?$/s));
    return `${plain} + ${beside}${braces || more}`;
  }

  function copied(text) {
    const block = make("pre", "", "copied");
    block.tabIndex = 0;
    block.append(make("code", text), copyButton(() => text, "copy"));
    return block;
  }

  function link(href, text) {
    return Object.assign(make("a", text), { href });
  }

  function shut() {
    const cell = named(state.cell);
    go({ cell: "" });
    const td = cell && tdOf(cell);
    if (td && seen(td) && td.offsetParent) rove(td, true);
  }

  // ---------------------------------------------------------------- keys

  // One cell at a time can be reached by Tab; arrows go on from there.
  function rove(cell, focus) {
    const one = section();
    for (const other of one.querySelectorAll("[tabindex='0']:is(td, th, th > a)")) other.tabIndex = -1;
    if (!cell) return;
    const target = cell.querySelector("a") || cell;
    target.tabIndex = 0;
    if (focus) {
      target.focus({ preventScroll: true });
      reveal(one.querySelector(".matrix"), cell);
    }
  }

  // What has the focus must not lie below the head or the first column, which stay in sight.
  function reveal(region, cell) {
    const [box, around] = [cell.getBoundingClientRect(), region.getBoundingClientRect()];
    const corner = region.querySelector("thead th").getBoundingClientRect();
    if (cell.tagName === "TD") {
      region.scrollLeft += Math.min(0, box.left - corner.right) + Math.max(0, box.right - around.left - region.clientWidth);
      region.scrollTop += Math.min(0, box.top - corner.bottom) + Math.max(0, box.bottom - around.top - region.clientHeight);
    }
    cell.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  function step(cell, down, right) {
    const trs = [...cell.closest("table").rows];
    let [r, c] = [trs.indexOf(cell.parentElement), cell.cellIndex];
    for (;;) {
      [r, c] = [r + down, c + right];
      const next = trs[r]?.cells[c];
      if (!next) return null;
      if (seen(next)) return next;
    }
  }

  function far(cell, down, right) {
    let [last, next] = [cell, cell];
    while (next) [last, next] = [next, step(next, down, right)];
    return last;
  }

  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  place.addEventListener("keydown", (event) => {
    const cell = event.target.closest("td, th");
    if (!cell || event.altKey || event.metaKey) return;
    if (moves[event.key]) {
      event.preventDefault();
      rove(step(cell, ...moves[event.key]) || cell, true);
    } else if (event.key === "Home" || event.key === "End") {
      event.preventDefault();
      const end = far(cell, 0, event.key === "Home" ? -1 : 1);
      rove(event.ctrlKey ? far(end, event.key === "Home" ? -1 : 1, 0) : end, true);
    } else if ((event.key === "Enter" || event.key === " ") && cell.tagName === "TD") {
      event.preventDefault();
      open(cell);
    }
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state.cell) shut();
  });
  place.addEventListener("click", (event) => {
    const td = event.target.closest("td");
    if (td) {
      rove(td, true);
      open(td);
    }
  });

  function open(td) {
    go({ cell: nameOf(cellAt(section(), td.parentElement, td)) });
  }

  // ---------------------------------------------------------------- what a reader does

  form.hidden = false;
  place.classList.add("scripted");
  document.getElementById("list").hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.elements.net.addEventListener("change", (event) => go({ net: event.target.value }));
  form.elements.show.addEventListener("change", (event) => go({ show: event.target.value }));
  row.addEventListener("change", () => go({ row: row.value }));
  for (const box of form.querySelectorAll("input")) {
    box.addEventListener("change", () => {
      state[box.name][box.checked ? "add" : "delete"](box.value);
      go({});
    });
  }
  for (const each of document.querySelectorAll(".views a")) {
    each.addEventListener("click", (event) => {
      event.preventDefault();
      go({ view: each.dataset.view === "alone" ? "nets" : each.dataset.view });
    });
  }
  addEventListener("popstate", () => { state = read(); show(); });
  document.getElementById("link").addEventListener("click", (event) => copy(event.target, location.href));

  // ---------------------------------------------------------------- the view to take along

  function view() {
    const one = section();
    return [...one.querySelectorAll("tbody tr:not([hidden])")].flatMap((tr) => [...tr.cells].slice(1).filter(seen).map((td) => told(cellAt(one, tr, td), td)));
  }

  function told(cell, td) {
    const found = rowOf(cell) || [];
    const pair = cell.kind !== "alone";
    const [one, other = ""] = found.length ? found.slice(0, pair ? 2 : 1).map((at) => keys[at]) : cell.methods;
    const [after, seeds, deviation] = found.slice(pair ? 2 : 1);
    const [first, second] = pair ? found.slice(5, 7) : [];
    const [bytes, seconds, made] = found.slice(pair ? 7 : 4);
    const note = td.textContent.match(/^[-x](\d+)/);
    const reason = note ? data.notes[note[1] - 1].replaceAll("{A}", cell.methods[0]).replaceAll("{B}", cell.methods[1] || "") : "";
    const { before } = data.nets[cell.net];
    return { net: cell.net, kind: cell.kind, first: one, second: other, outcome: outcomeOf(td.textContent), order_matters: td.textContent.includes("!"), before, first_alone: first, second_alone: second, after, deviation, seeds, bytes, seconds, commit: data.made[made]?.[0], date: data.made[made]?.[1], reason, line: lineOf(cell) };
  }

  function csv() {
    const rows = view();
    return toCsv([Object.keys(rows[0] || { net: "" }), ...rows.map(Object.values)]);
  }

  document.getElementById("csv").addEventListener("click", () => save("condensery-matrix.csv", "text/csv", csv()));
  document.getElementById("json").addEventListener("click", () => save("condensery-matrix.json", "application/json", JSON.stringify(view(), null, 1)));
  show();
}
