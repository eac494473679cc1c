// Draws the composition builder. What a line means, and what is legal, is said by builder.js; words are told apart by
// site.js. The address is the state: c is the line, then model, task, target, and what the list of methods shows.
"use strict";

if (document.getElementById("builder")) build(window.RULES);

function build(rules) {
  const at = (id) => document.getElementById(id);
  const own = Builder.own;
  const rows = [...at("palette").children].map((element) => ({
    element,
    key: element.dataset.key,
    search: plain(element.dataset.search),
    facets: JSON.parse(element.dataset.facets),
  }));
  const selects = [...at("facets").querySelectorAll("select")];
  const facetOf = new Map(selects.map((select) => [select.name, new Set([...select.options].map((option) => option.value))]));
  const FIGURES = [...at("figure").options].map((option) => option.value).filter(Boolean);
  const READS = { c: "c", model: "model", task: "task", q: "q", target: "target" };
  let beside;  // the name of the stage that "with" means, the last one where there is none
  let state = read();
  let items = [];

  // ---------------------------------------------------------------- the address

  // {c, model, task, target, q, facets: facet -> word, unknown: [name, value] that mean nothing and stay all the same}
  function read() {
    const found = { c: "", model: "", task: "", target: "", q: "", facets: new Map(), unknown: [] };
    for (const [name, value] of new URLSearchParams(location.search)) {
      if (own(READS, name)) found[name] = value;
      else if (facetOf.get(name)?.has(value)) found.facets.set(name, value);
      else found.unknown.push([name, value]);
    }
    return found;
  }

  function address(changed = {}) {
    const now = { ...state, ...changed };
    const said = Object.keys(READS).map((name) => [name, now[name]]).filter(([, value]) => value);
    said.push(...now.facets, ...now.unknown);
    const query = said.map(([name, value]) => `${encodeURIComponent(name)}=${readable(value)}`);
    return location.pathname + (query.length ? `?${query.join("&")}` : "");
  }

  // What an address may hold as it is, stays readable.
  function readable(text) {
    const signs = { "%20": "+", "%3D": "=", "%2C": ",", "%3A": ":", "%40": "@", "%2F": "/" };
    return encodeURIComponent(text).replace(/%(20|3D|2C|3A|40|2F)/g, (code) => signs[code]);
  }

  // Typing replaces the address; a choice is a step that Back undoes.
  function go(step) {
    history[step ? "pushState" : "replaceState"](null, "", address());
    show();
  }

  function put(changed, step = true) {
    Object.assign(state, changed);
    go(step);
  }

  // ---------------------------------------------------------------- the composition

  // Change the composition. change: gets a copy of its items, and may return others.
  function edit(change) {
    const copy = state.c ? Builder.parse(state.c) : [];
    const made = change(copy) || copy;
    put({ c: made.length ? Builder.spell(made) : "" });
  }

  // The list that a stage stands in. path: its places, from the outside in.
  function around(all, path) {
    return path.slice(0, -1).reduce((list, place) => list[place].stages, all);
  }

  function found(all, path) {
    return around(all, path)[path.at(-1)];
  }

  function remove(all, path) {
    const list = around(all, path);
    list.splice(path.at(-1), 1);
    if (!list.length && path.length > 1) remove(all, path.slice(0, -1));
  }

  function move(all, path, by) {
    const list = around(all, path);
    list.splice(path.at(-1) + by, 0, ...list.splice(path.at(-1), 1));
  }

  // Let a stage act at the same time as the one before it.
  function join(all, path) {
    const list = around(all, path);
    const [stage] = list.splice(path.at(-1), 1);
    const before = list[path.at(-1) - 1];
    list[path.at(-1) - 1] = { ...stage, ...before, methods: [...before.methods, ...stage.methods] };
  }

  function apart(all, path, number) {
    const stage = found(all, path);
    around(all, path).splice(path.at(-1) + 1, 0, { methods: stage.methods.splice(number, 1) });
  }

  function fresh(key) {
    const needs = own(rules.methods, key)?.cases?.[0].needs || [];
    return { methods: [{ key }], ...(needs.includes("teacher") ? { teacher: "original" } : {}) };
  }

  function added(all, key, stage) {
    if (!stage) return [...all, fresh(key)];
    const { methods, ...fields } = fresh(key);
    stage.methods.push(...methods);
    for (const [name, value] of Object.entries(fields)) stage[name] ??= value;
    return all;
  }

  // The stage of a copy that "with" means.
  function chosenStage(all) {
    const names = [...Builder.namesOf(all)];
    return (names.find(([, name]) => name === beside) || names.at(-1))?.[0];
  }

  function judged(all) {
    return Builder.legal(all, Builder.start(keyOf(state.model), keyOf(state.task), rules), rules, keyOf(state.task));
  }

  // The key of a model or task with its settings; of one that can't be read, its text.
  function keyOf(text) {
    try {
      return text ? Builder.parseSpec(text, "model").key : "";
    } catch {
      return text;
    }
  }

  // ---------------------------------------------------------------- what is seen

  function show() {
    const focused = document.activeElement?.dataset?.at || document.activeElement?.id;
    const opened = new Set([...document.querySelectorAll("details[open][data-at]")].map((one) => one.dataset.at));
    let unread = "";
    try {
      items = state.c ? Builder.parse(state.c) : [];
    } catch (error) {
      items = [];
      unread = error.message;
    }

    for (const name of ["model", "task", "q"]) setValue(at(name), state[name]);
    const [figure, most] = state.target.split(":");
    at("figure").value = FIGURES.includes(figure) ? figure : "";
    setValue(at("most"), most || "");
    for (const select of selects) select.value = state.facets.get(select.name) || "";
    setValue(at("line"), state.c);
    at("unread").hidden = !unread;
    at("unread").replaceChildren(node("s", {}, state.c), ` can't be read. ${unread}`);

    const doubts = items.length ? Builder.problems(items, rules, nearest) : [];
    const verdict = judged(items);
    drawStages(doubts, verdict);
    drawVerdict(doubts, verdict);
    drawDoubts();
    drawPalette(unread || doubts[0]?.text || verdict.refused?.text);
    drawOrders();
    drawKnown();
    drawOutputs();

    for (const one of document.querySelectorAll("details[data-at]")) if (opened.has(one.dataset.at)) one.open = true;
    if (focused && document.activeElement?.dataset?.at !== focused && document.activeElement?.id !== focused) {
      const again = document.querySelector(`[data-at="${CSS.escape(focused)}"]:not(:disabled)`);
      (again || (at(focused) ? null : at("yours")))?.focus();
    }
  }

  function setValue(input, value) {
    if (input.value !== value) input.value = value;
  }

  function node(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in made && name !== "list") made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  // A button keeps the focus when the page is drawn anew: place tells which one it is.
  function button(text, place, act, more = {}) {
    const made = node("button", { type: "button", "data-at": place, ...more }, text);
    made.addEventListener("click", act);
    return made;
  }

  // ---------------------------------------------------------------- stages

  function drawStages(doubts, verdict) {
    const names = Builder.namesOf(items);
    at("stages").replaceChildren(...drawItems(items, [], names, doubts, verdict));
    at("whole").hidden = !items.length;
    const whole = items.length === 1 && items[0].stages ? items[0].repeat : 1;
    setValue(at("rounds"), String(whole));
    at("teachers").replaceChildren(...[...Builder.ROLE_WORDS, ...names.values(), ...Object.keys(rules.models)].map((word) => node("option", {}, word)));
  }

  function drawItems(list, path, names, doubts, verdict) {
    return list.flatMap((item, place) => {
      const here = [...path, place];
      const drawn = item.stages ? drawRound(item, here, names, doubts, verdict) : drawStage(item, here, list, names, doubts, verdict);
      return place ? [node("li", { className: "then" }, "→ then"), drawn] : [drawn];
    });
  }

  function drawRound(round, path, names, doubts, verdict) {
    const where = `round ${path.map((place) => place + 1).join(".")}`;
    const times = node("input", { type: "number", min: 1, max: 999999999, value: round.repeat, ariaLabel: `Times that ${where} is played`, "data-at": `times-${path}` });
    times.addEventListener("change", () => edit((all) => { found(all, path).repeat = Math.max(1, Math.floor(Number(times.value)) || 1); }));
    const inner = node("ol", {}, ...drawItems(round.stages, path, names, doubts, verdict));
    const open = button("keep the stages alone", `unround-${path}`, () => edit((all) => { around(all, path).splice(path.at(-1), 1, ...found(all, path).stages); }), { ariaLabel: `Take ${where} away and keep its stages` });
    const head = node("div", { className: "head" }, node("h3", {}, `${where}: `, times, " times"), node("div", { className: "moves" }, open));
    return node("li", { className: "round" }, head, inner);
  }

  function drawStage(stage, path, list, names, doubts, verdict) {
    const name = names.get(stage);
    const number = [...names.keys()].indexOf(stage) + 1;
    const own_ = doubts.filter((doubt) => doubt.stage === stage);
    const refused = verdict.refused?.stage === name ? [verdict.refused] : [];
    const place = path.at(-1);

    const methods = stage.methods.map((method, index) => drawMethod(stage, method, path, index, own_));
    const moves = node("div", { className: "moves" });
    if (place > 0) moves.append(button("↑ earlier", `up-${path}`, () => edit((all) => move(all, path, -1)), { ariaLabel: `Move stage ${number} earlier` }));
    if (place < list.length - 1) moves.append(button("↓ later", `down-${path}`, () => edit((all) => move(all, path, 1)), { ariaLabel: `Move stage ${number} later` }));
    if (place > 0 && !list[place - 1].stages) moves.append(button("with the stage before", `join-${path}`, () => edit((all) => join(all, path)), { ariaLabel: `Let stage ${number} act at the same time as the stage before` }));
    moves.append(button("× remove", `remove-${path}`, () => edit((all) => remove(all, path)), { ariaLabel: `Remove stage ${number}` }));

    const said = [...own_, ...refused].map(({ text }) => node("p", { className: "refused" }, `✕ ${text}`));
    const heading = node("div", { className: "head" }, node("h3", {}, `stage ${number}: ${name}`), moves);
    return node("li", { className: said.length ? "stage wrong" : "stage" }, heading, ...methods, drawFields(stage, path, number), ...said);
  }

  function drawMethod(stage, method, path, index, doubts) {
    const known = own(rules.methods, method.key);
    const where = `${path}-${index}`;
    const drawn = node("div", { className: "method head" });
    if (!known) {
      const near = doubts.find((doubt) => doubt.method === method)?.nearest;
      const take = button(`take ${near}`, `near-${where}`, () => edit((all) => { found(all, path).methods[index].key = near; }));
      drawn.append(node("p", {}, node("s", {}, method.key), ` no such method; nearest: ${near} `, take));
    } else {
      drawn.append(drawSettings(known, method, path, index));
    }
    const moves = node("div", { className: "moves" });
    if (stage.methods.length > 1) {
      moves.append(button("to a stage of its own", `apart-${where}`, () => edit((all) => apart(all, path, index)), { ariaLabel: `Give ${method.key} a stage of its own` }));
      moves.append(button("× remove", `out-${where}`, () => edit((all) => { found(all, path).methods.splice(index, 1); }), { ariaLabel: `Remove ${method.key}` }));
    }
    drawn.append(moves);
    return drawn;
  }

  // The settings that are given, in brackets; what the method doesn't know is struck.
  function inWords(known, method) {
    const said = Object.entries(method.settings || {}).flatMap(([name, value], number) =>
      [number ? ", " : "", node(own(known.settings, name) ? "span" : "s", {}, `${name}=${Builder.say(value)}`)]);
    return said.length ? node("code", {}, " (", ...said, ")") : "";
  }

  function drawSettings(known, method, path, index) {
    const where = `settings-${path}-${index}`;
    const given = method.settings || {};
    const fields = node("div", { className: "fields" });
    const set = (name, value) => edit((all) => {
      const one = found(all, path).methods[index];
      one.settings ??= Object.create(null);
      if (value === undefined) delete one.settings[name];
      else one.settings[name] = value;
    });
    for (const [name, setting] of Object.entries(known.settings)) {
      fields.append(field(name, `${where}-${name}`, own(given, name), setting, (value) => set(name, value)));
    }
    // What the method doesn't know stays in sight until it is removed.
    for (const name of Object.keys(given).filter((one) => !own(known.settings, one))) {
      fields.append(node("p", {}, node("s", {}, `${name}=${Builder.say(given[name])}`), " ", button("× remove", `${where}-${name}`, () => set(name, undefined), { ariaLabel: `Remove ${name}` })));
    }
    const summary = node("summary", { "data-at": `${where}-summary` }, node("b", {}, method.key), inWords(known, method));
    const more = node("p", {}, node("a", { href: `m/${method.key}.html` }, `what ${method.key} does, and what its settings mean`));
    return node("details", { "data-at": where }, summary, more, fields);
  }

  // One setting: a choice among its values, or a text that is read as in a line.
  function field(name, place, value, setting, set) {
    const id = `at-${place}`.replace(/[^\w-]/g, "_");
    const usual = JSON.stringify(setting.default);
    const choices = setting.type === "bool" ? ["true", "false"] : setting.choices?.map(String);
    const said = value === undefined ? "" : typeof value === "string" ? value : Builder.say(value);
    let input;
    if (choices && (said === "" || choices.includes(said))) {
      input = node("select", { id, "data-at": place }, node("option", { value: "" }, `default: ${usual}`), ...choices.map((choice) => node("option", {}, choice)));
      input.value = said;
    } else {
      input = node("input", { id, "data-at": place, value: said, placeholder: usual, autocomplete: "off", spellcheck: false });
    }
    input.addEventListener("change", () => taken(input, setting.type === "str", set));
    return node("p", {}, node("label", { htmlFor: id }, name), input);
  }

  // Read a typed value, nothing where there is none; what can't be read is said beside it, and changes nothing.
  function taken(input, isText, set, names) {
    const text = input.value.trim();
    input.setCustomValidity?.("");
    try {
      set(text === "" ? undefined : isText && !/^["'[=]/.test(text) ? text : Builder.parseValue(text, names));
    } catch (error) {
      input.setCustomValidity(error.message);
      input.reportValidity();
    }
  }

  // Roles, epochs and name of a stage.
  function drawFields(stage, path, number) {
    const given = Builder.FIELDS.filter((name) => stage[name] !== undefined);
    const names = [...Builder.namesOf(items).values()].slice(0, number - 1);
    const fields = node("div", { className: "fields" });
    for (const name of Builder.FIELDS) {
      const id = `field-${path}-${name}`.replaceAll(",", "_");
      const roles = Builder.ROLES.includes(name) ? names : undefined;
      const value = stage[name] === undefined ? "" : Builder.say(stage[name], roles && new Set(names));
      const input = node("input", { id, "data-at": id, value, autocomplete: "off", spellcheck: false, placeholder: usualField(name, stage) });
      if (roles) input.setAttribute("list", "teachers");
      input.addEventListener("change", () => taken(input, false, (read_) => edit((all) => {
        if (read_ === undefined) delete found(all, path)[name];
        else found(all, path)[name] = read_;
      }), roles));
      fields.append(node("p", {}, node("label", { htmlFor: id }, name), input));
    }
    const said = given.map((name) => `${name}=${Builder.say(stage[name], Builder.ROLES.includes(name) ? new Set(names) : undefined)}`).join(", ");
    const lent = !Builder.listOf(stage.teacher).length && Builder.hasTeacher(stage, rules) ? " (teacher: the original net, as none is named)" : "";
    const summary = node("summary", { "data-at": `fields-${path}-summary` }, said ? `roles and epochs: ${said}` : `roles and epochs${lent}`);
    return node("details", { "data-at": `fields-${path}` }, summary, fields);
  }

  function usualField(name, stage) {
    const usual = { name: Builder.nameOf({ ...stage, name: undefined }), teacher: "none", student: "previous", players: "none", epochs: "half of the task's own" };
    if (name === "teacher" && Builder.hasTeacher({ ...stage, teacher: undefined }, rules)) return "original";
    return usual[name];
  }

  function drawVerdict(doubts, verdict) {
    const said = doubts[0]?.text || verdict.refused?.text;
    const text = !items.length ? (state.c ? "" : "Nothing yet: choose a method below, or type a line.") : said ? `✕ legal: no. ${said}` : "✓ legal: yes, by the words; a dry run on your net tells more";
    at("verdict").className = said ? "refused" : items.length ? "may" : "";
    if (at("verdict").textContent !== text) at("verdict").textContent = text;

    const begins = Builder.start(keyOf(state.model), keyOf(state.task), rules);
    const after = verdict.states.map(([name, words], number) => {
      const before = number ? verdict.states[number - 1][1] : begins;
      const gone = before.filter((word) => !words.includes(word));
      return node("li", {}, `after ${name}: ${words.join(", ") || "nothing"}`, gone.length ? ` (gone: ${gone.join(", ")})` : "");
    });
    const title = `What holds after each stage${state.model || state.task ? "" : ", on a net that has all that a net can have"}`;
    at("after").replaceChildren(...(items.length ? [node("h3", {}, title), node("ul", {}, node("li", {}, `at the start: ${begins.join(", ")}`), ...after)] : []));
  }

  // ---------------------------------------------------------------- what isn't known

  function drawDoubts() {
    at("doubts").replaceChildren();
    const chip = (text, drop, why) => {
      const gone = button("", `doubt-${text}`, drop, { ariaLabel: `Remove ${text}` });
      gone.append(node("s", {}, text), " ×");
      at("doubts").append(node("span", { className: "chip unknown" }, gone, ` ${why} `));
    };
    for (const pair of state.unknown) {
      const words = facetOf.get(pair[0]);
      const why = words ? `no such ${pair[0]}; nearest: ${nearest(pair[1], words)}` : `no such part of an address; nearest: ${nearest(pair[0], [...Object.keys(READS), ...facetOf.keys()])}`;
      chip(`${pair[0]}: ${pair[1]}`, () => put({ unknown: state.unknown.filter((other) => other !== pair) }), why);
    }
    for (const kind of ["model", "task"]) {
      const key = keyOf(state[kind]);
      const known = Object.keys(rules[`${kind}s`]);
      const family = known.some((one) => one.endsWith("/*") && key.startsWith(one.slice(0, -1)));
      if (key && !known.includes(key) && !family) chip(`${kind}: ${state[kind]}`, () => put({ [kind]: "" }), `no such ${kind}; nearest: ${nearest(key, known)}`);
    }
    const [figure, most] = state.target.split(":");
    if (state.target && !(FIGURES.includes(figure) && Number(most) > 0)) chip(`target: ${state.target}`, () => put({ target: "" }), "a target is one of bytes, macs, latency, and a number above 0 that it may be at most");

    const kinds = own(rules.models, keyOf(state.model))?.kinds || [];
    const kind = own(rules.tasks, keyOf(state.task) || "digits")?.kind;
    if (kinds.length && kind && !kinds.includes(kind)) at("doubts").append(node("span", { className: "refused" }, `✕ ${keyOf(state.model)} takes ${kinds.join(" or ")}, ${keyOf(state.task) || "digits, the task by default,"} gives ${kind} `));
  }

  // ---------------------------------------------------------------- the palette

  function kept(row) {
    for (const [facet, word] of state.facets) if (!(row.facets[facet] || []).includes(word)) return false;
    return plain(state.q).split(/\s+/).every((word) => row.search.includes(word));
  }

  // broken: what is wrong with the composition itself.
  function drawPalette(broken) {
    const names = Builder.namesOf(items);
    if (![...names.values()].includes(beside)) beside = undefined;
    at("beside-whole").hidden = names.size < 2;
    at("beside").replaceChildren(...[...names.values()].map((name, number) => node("option", { value: name }, `stage ${number + 1}: ${name}`)));
    const target = chosenStage(items);
    const stage = target && `stage ${[...names.keys()].indexOf(target) + 1}`;
    at("beside").value = target ? names.get(target) : "";

    // What comes after a composition that is wrong itself can't be told.
    const mend = broken && state.c;
    at("mend").hidden = !mend;
    at("beside-whole").hidden ||= Boolean(mend);

    let count = 0;
    for (const row of rows) {
      row.element.hidden = !kept(row);
      if (row.element.hidden) continue;
      count += 1;
      row.element.querySelectorAll(".next, .moves").forEach((old) => old.remove());
      if (!mend) row.element.append(...offers(row.key, stage));
    }
    at("shown").textContent = `${count} of ${rows.length} methods`;
    at("chosen").textContent = state.facets.size ? `(${state.facets.size})` : "";
  }

  function offers(key, stage) {
    const problem = own(rules.methods, key).problem;
    if (problem) return [node("p", { className: "next refused" }, `✕ ${problem}`)];

    const then = judged(added(copied(), key)).refused;
    const moves = node("div", { className: "moves" });
    const said = [];
    said.push(then ? why("✕ not next", then) : node("p", { className: "next may" }, items.length ? "✓ may come next" : "✓ may come first"));
    moves.append(button(items.length ? "→ then" : "begin with it", `then-${key}`, () => edit((all) => added(all, key)), { disabled: Boolean(then), ariaLabel: `${items.length ? "Then" : "Begin with"} ${key}` }));
    if (stage) {
      const all = copied();
      const beside_ = judged(added(all, key, chosenStage(all))).refused;
      if (beside_ && beside_.text !== then?.text) said.push(why(`✕ not with ${stage}`, beside_));
      moves.append(button(`+ with ${stage}`, `with-${key}`, () => edit((mine) => added(mine, key, chosenStage(mine))), { disabled: Boolean(beside_), ariaLabel: `${key} at the same time as ${stage}` }));
    }
    return [...said, moves];
  }

  function copied() {
    return state.c ? Builder.parse(state.c) : [];
  }

  function why(what, refused) {
    return node("p", { className: "next refused" }, `${what}: ${refused.text}`);
  }

  // ---------------------------------------------------------------- other orders, and what is known

  function drawOrders() {
    const lines = Builder.problems(items, rules, nearest).length ? [] : Builder.orders(items);
    const told = lines.map((line) => {
      const all = Builder.parse(line);
      const wrong = Builder.problems(all, rules, nearest)[0]?.text || judged(all).refused?.text;
      return { line, wrong, ...counted(all) };
    }).sort((a, b) => Boolean(a.wrong) - Boolean(b.wrong));
    at("orders").hidden = !told.length;
    at("orders").querySelector("ul").replaceChildren(...told.map(({ line, wrong, run, work }) =>
      node("li", {}, link(line), wrong ? node("span", { className: "refused" }, ` ✕ ${wrong}`) : node("span", { className: "may" }, " ✓ legal"),
        run ? `, ${work} of ${run} cells of its pairs work` : "")));
  }

  // How many cells of the matrix its pairs have, and how many of them work.
  function counted(all) {
    const found = Builder.pairsOf(all).flatMap((pair) => Object.values(Builder.outcomes(pair, rules)));
    return { run: found.length, work: found.filter((outcome) => outcome === "works").length };
  }

  // The cells of the matrix of one pair, each with a link to it.
  function drawPair(pair) {
    const [kind, ...methods] = pair;
    return Object.entries(Builder.outcomes(pair, rules)).map(([net, outcome]) => {
      const cell = `${net}:${methods.join({ then: "..", with: "+" }[kind])}`;
      return node("li", {}, node("a", { href: `matrix.html?cell=${encodeURIComponent(cell)}` }, `${methods.join(` ${kind} `)} on ${net}`), `: ${outcome}`);
    });
  }

  function link(line) {
    return node("a", { href: address({ c: line }).replace(location.pathname, "build.html") }, node("code", {}, line));
  }

  // Stored results of the same methods: in this order, in another, and of which these are a part.
  function drawKnown() {
    const stages = [...Builder.flat(items)].map((stage) => stage.methods.map((method) => method.key)).filter((keys) => keys.length);
    const bag = (all) => all.flat().sort().join(" ");
    const mine = new Set(stages.flat());
    const drawn = rules.known.map((arm) => {
      const same = JSON.stringify(arm.methods) === JSON.stringify(stages);
      const rank = same ? "the same stages" : bag(arm.methods) === bag(stages) ? "the same methods in another order"
        : [...mine].every((key) => arm.methods.flat().includes(key)) ? "these methods with others" : "";
      return { arm, rank };
    }).filter(({ rank }) => rank);
    const ranks = ["the same stages", "the same methods in another order", "these methods with others"];
    drawn.sort((a, b) => ranks.indexOf(a.rank) - ranks.indexOf(b.rank));
    at("known").hidden = !items.length;
    const list = drawn.map(({ arm, rank }) => node("li", {}, `${rank}: `, node("a", { href: `r/${arm.page}.html` }, `${arm.page}, ${arm.arm}`),
      ` on ${arm.model}, ${arm.task}: ${arm.figures.join(", ")}. `, arm.line && arm.line !== state.c ? link(arm.line) : ""));
    const cells = Builder.pairsOf(items).flatMap(drawPair);
    const { run, work } = counted(items);
    at("cells").replaceChildren(...cells);
    at("celled-whole").hidden = !run;
    at("celled").textContent = `in the matrix ${work} of ${run} cells work: each pair on each net where it was tried`;
    at("known").querySelector("ul").replaceChildren(...(list.length ? list : [node("li", {}, "no stored result of these methods")]));
  }

  // ---------------------------------------------------------------- to copy

  function drawOutputs() {
    at("outputs").hidden = !items.length;
    if (!items.length) return;
    const line = Builder.spell(items);
    const [figure, most] = state.target.split(":");
    const aims = FIGURES.includes(figure) && Number(most) > 0;
    at("command").textContent = Builder.command(line, state.model, state.task);
    at("python").textContent = Builder.python(line, aims ? { figure, most: Number(most) } : {});
    try {
      at("recipe").textContent = Builder.recipe(items, state.model, state.task, rules);
    } catch (error) {
      at("recipe").textContent = `# ${error.message}`;
    }
    const open = Builder.amounts(items, rules);
    const one = open.length === 1 ? `it sets ${open[0]}` : `it needs just one open number that sets how much goes; here: ${open.join(", ") || "none"}`;
    at("aimed").hidden = !aims;
    at("aimed").textContent = `A target is for Python's compress alone, and ${one}.`;
  }

  // ---------------------------------------------------------------- what a reader does

  at("builder").hidden = at("filters").hidden = false;
  at("yours").tabIndex = -1;
  for (const form of document.querySelectorAll("main form")) form.addEventListener("submit", (event) => event.preventDefault());
  at("said").addEventListener("submit", () => put({ c: at("line").value.trim() }));
  at("line").addEventListener("change", () => { if (at("line").value.trim() !== state.c) put({ c: at("line").value.trim() }); });
  for (const name of ["model", "task"]) at(name).addEventListener("change", () => put({ [name]: at(name).value.trim() }));
  const aim = () => put({ target: at("figure").value || at("most").value ? `${at("figure").value}:${at("most").value.trim() || "0.1"}` : "" });
  at("figure").addEventListener("change", () => { if (!at("figure").value) at("most").value = ""; aim(); });
  at("most").addEventListener("change", aim);
  at("q").addEventListener("input", () => put({ q: at("q").value }, false));
  for (const select of selects) {
    select.addEventListener("change", () => {
      if (select.value) state.facets.set(select.name, select.value);
      else state.facets.delete(select.name);
      go(true);
    });
  }
  at("beside").addEventListener("change", () => { beside = at("beside").value; show(); });
  at("rounds").addEventListener("change", () => edit((all) => {
    const count = Math.max(1, Math.floor(Number(at("rounds").value)) || 1);
    const inner = all.length === 1 && all[0].stages ? all[0].stages : all;
    return count > 1 ? [{ stages: inner, repeat: count }] : inner;
  }));
  at("clear").addEventListener("click", () => put({ c: "" }));
  at("link").addEventListener("click", (event) => copy(event.target, location.href));
  addEventListener("popstate", () => { state = read(); show(); });
  show();
}
