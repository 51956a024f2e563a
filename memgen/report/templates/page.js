"use strict";
// The script of both pages: the slider, the charts, the gallery, the film, and the eigenvectors.
// All data stand in the page. Texts reach it through textContent and attributes alone, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const find = (id) => document.getElementById(id);
  const panels = data.panels || [];
  const darkness = matchMedia("(prefers-color-scheme: dark)");
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let selected = Math.max(0, panels.findIndex((panel) => panel.start));
  const selectedName = () => (panels.length ? panels[selected].name : null);

  const element = (tag, options = {}, ...children) => {
    const { label, ...rest } = options;
    const made = Object.assign(document.createElement(tag), rest);
    if (label) made.setAttribute("aria-label", label);
    made.append(...children);
    return made;
  };
  const show = (id) => { const found = find(id); if (found) found.hidden = false; return found; };
  const number = (value) => {
    if (value === null || value === undefined) return "–";
    if (Number.isInteger(value)) return value.toLocaleString("en-US");
    const text = Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6 ? value.toExponential(1) : value.toPrecision(3);
    return text.replace("-", "−");
  };

  // Says that there is nothing for the selected panel, and for which there is something.
  const elsewhere = (nothing, all) =>
    `${nothing} for ${selectedName()}. There are some for ${[...new Set(all.map((each) => each.panel))].join("; ")}.`;

  // ------------------------------------------------------------------------------------------- tiles

  const sources = document.querySelectorAll("script.sheet");
  const decoded = new Map(); // the sheets used last
  const sheet = (index) => {
    let image = decoded.get(index);
    if (!image) {
      image = new Image();
      image.src = "data:image/png;base64," + sources[index].textContent;
    }
    decoded.delete(index);
    decoded.set(index, image);
    if (decoded.size > 64) decoded.delete(decoded.keys().next().value);
    return image.decode().then(() => image);
  };

  const { width, height, across, per_sheet: perSheet } = data.tile;
  const paint = async (context, tile, operation) => {
    const image = await sheet(Math.floor(tile / perSheet));
    const place = tile % perSheet;
    const [x, y] = [(place % across) * width, Math.floor(place / across) * height];
    context.globalCompositeOperation = operation;
    context.drawImage(image, x, y, width, height, 0, 0, width, height);
  };

  // A picture of a tile, or of its difference from another one, with its caption.
  const picture = (tile, caption, label, minus = null) => {
    const canvas = element("canvas", { width, height, label });
    canvas.setAttribute("role", "img");
    const context = canvas.getContext("2d");
    canvas.ready = paint(context, tile, "copy").then(() => minus === null || paint(context, minus, "difference"));
    canvas.ready.then(() => { canvas.dataset.drawn = "true"; });
    return element("figure", {}, canvas, element("figcaption", { textContent: caption }));
  };

  // ------------------------------------------------------------------------------------------- charts

  const views = new Map();
  const GAP = 76; // room of an axis with its title, in pixels
  const adapted = (spec, room) => {
    let text = JSON.stringify(spec);
    if (darkness.matches) text = text.replace(/#[0-9a-f]{6}/g, (color) => data.dark[color] || color);
    const made = JSON.parse(text);
    const style = getComputedStyle(document.body);
    made.config.background = "transparent";
    made.config.font = style.fontFamily;
    made.columns = Math.min(made.columns, Math.max(1, Math.floor(room / 300)));
    made.config.legend.columns = Math.max(1, Math.floor(room / spec.usermeta.legend_width));
    for (const panel of made.concat) panel.width = Math.max(120, Math.floor(room / made.columns) - GAP);
    for (const param of made.params) if (param.name === "chosen" && panels.length) param.value = selectedName();
    return made;
  };

  const drawChart = async (host) => {
    const room = host.clientWidth;
    const box = element("div", { label: data.charts[host.dataset.chart].description });
    box.setAttribute("role", "img");
    const made = await vegaEmbed(box, adapted(data.charts[host.dataset.chart], room), {
      ast: true, actions: false, renderer: "svg", mode: "vega-lite",
      tooltip: { theme: darkness.matches ? "dark" : "light" },
    });
    views.get(host)?.finalize();
    views.set(host, made.view);
    // The still picture stays for paper.
    host.querySelector("div")?.remove();
    host.append(box);
    host.dataset.room = room;
    host.dataset.drawn = "true";
    made.view.signal("chosen", selectedName()).runAsync();
    made.view.addEventListener("click", (_, item) => {
      const at = panels.findIndex((panel) => panel.name === item?.datum?.key);
      if (at >= 0) select(at);
    });
  };

  const hosts = [...document.querySelectorAll("[data-chart]")];
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); drawChart(entry.target); }
  }, { rootMargin: "600px" });
  const redraw = (all) => {
    for (const host of views.keys()) if (all || Number(host.dataset.room) !== host.clientWidth) drawChart(host);
  };

  // ------------------------------------------------------------------------------------------- slider and numbers

  const drawNumbers = () => {
    const list = show("numbers");
    if (!list) return;
    const { name, verdict, numbers } = panels[selected];
    const entry = (title, value, small) =>
      element("div", {}, element("dt", { textContent: title }), element("dd", {}, value + " ", element("small", { textContent: small })));
    const entries = numbers.map((each) => entry(each.name, each.value, `${each.interval} ${each.unit}`.trim()));
    list.replaceChildren(...(verdict ? [entry(`Verdict at ${name}`, verdict, "")] : []), ...entries);
  };

  const change = () => {
    gallery?.change();
    film?.change();
    drawBases();
  };

  const select = (index) => {
    selected = index;
    const slider = find("panel");
    if (slider) {
      const { name, verdict } = panels[selected];
      slider.value = selected;
      slider.setAttribute("aria-valuetext", name);
      find("panel-name").textContent = verdict ? `${name}: ${verdict}` : name;
    }
    for (const view of views.values()) view.signal("chosen", selectedName()).runAsync();
    drawNumbers();
    change();
  };

  // ------------------------------------------------------------------------------------------- gallery

  const PER_PAGE = innerWidth < 640 ? 12 : 24;
  const makeGallery = (given) => {
    const controls = find("gallery-controls");
    const [cards, count, pageNumber] = ["cards", "gallery-count", "page-number"].map(find);
    const [previous, next] = ["previous", "next"].map(find);
    const value = (id) => find(id)?.value ?? "";
    const all = given.names.map((_, i) => i);
    let page = 0, found = all;

    const listModels = (here) => {
      const select = find("by-model");
      if (!select) return;
      const known = [...new Set(here.map((i) => given.model.of[i]))].sort((a, b) => a - b);
      const before = select.value;
      const options = known.map((i) => element("option", { value: i, textContent: given.model.list[i] }));
      select.replaceChildren(element("option", { value: "", textContent: "all" }), ...options);
      select.value = known.includes(Number(before)) && before !== "" ? before : "";
    };

    const card = (i) => {
      const reported = given.reported[i] === 1;
      const differing = find("difference")?.checked;
      const tiles = element("div", { className: "tiles" });
      given.pictures.forEach((title, p) => {
        const tile = given.tiles[p][i];
        const minus = differing && p > 0 ? given.tiles[0][i] : null;
        const caption = minus === null ? title : `difference from the ${title}`;
        if (tile >= 0) tiles.append(picture(tile, caption, `${caption}: ${given.names[i]}`, minus));
      });
      const numbers = element("dl");
      for (const measure of given.measures) {
        const text = number(given.values[measure.name][i]);
        numbers.append(element("dt", { textContent: measure.title }), element("dd", { textContent: text }));
      }
      const about = [given.model.list[given.model.of[i]], given.space.list[given.space.of[i]], given.notes[i]];
      return element("li", { className: reported ? "card reported" : "card" }, tiles,
        element("p", { className: "name", textContent: given.names[i] + (reported ? " (reported)" : "") }),
        element("p", { className: "soft", textContent: about.filter(Boolean).join(" · ") }), numbers);
    };

    const draw = () => {
      const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
      page = Math.min(page, pages - 1);
      cards.replaceChildren(...found.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(card));
      pageNumber.textContent = `Page ${page + 1} of ${pages.toLocaleString("en-US")}`;
      [previous.disabled, next.disabled] = [page === 0, page === pages - 1];
    };

    const change = () => {
      const here = panels.length ? all.filter((i) => given.panel.list[given.panel.of[i]] === selectedName()) : all;
      listModels(here);
      const [model, space] = [value("by-model"), value("by-space")];
      const measured = given.values[value("by-measure")] || [];
      const [low, high] = ["low", "high"].map((id) => (value(id) === "" ? null : Number(value(id))));
      const bounded = (x) => x !== null && (low === null || x >= low) && (high === null || x <= high);
      found = here.filter((i) =>
        (model === "" || given.model.of[i] === Number(model)) &&
        (space === "" || given.space.of[i] === Number(space)) &&
        (!find("reported").checked || given.reported[i] === 1) &&
        ((low === null && high === null) || bounded(measured[i])));
      const keys = given.values[value("sort")];
      const sign = Number(value("order"));
      // Samples without the number come last, whichever the order.
      if (keys) found.sort((a, b) => (keys[a] === null) - (keys[b] === null) || sign * (keys[a] - keys[b]) || a - b);
      const at = panels.length > 1 ? ` at ${selectedName()}` : "";
      count.textContent = `${found.length.toLocaleString("en-US")} of ${here.length.toLocaleString("en-US")} samples${at}`;
      page = 0;
      draw();
    };

    controls.addEventListener("input", change);
    controls.addEventListener("submit", (event) => event.preventDefault());
    controls.addEventListener("reset", () => setTimeout(change));
    const turn = (by) => { page += by; draw(); find("gallery-view").scrollIntoView({ block: "start" }); };
    previous.addEventListener("click", () => turn(-1));
    next.addEventListener("click", () => turn(1));
    show("gallery-view");
    return { change };
  };

  // ------------------------------------------------------------------------------------------- film

  const makeFilm = (films) => {
    const [frame, name, play, place] = ["frame", "frame-name", "play", "frames"].map(find);
    let shown = [], timer = null;
    const draw = () => {
      const t = Number(frame.value);
      const parts = shown.map((each) => {
        const at = Math.min(t, each.updates.length - 1);
        const tiles = each.tiles.map((row, m) =>
          picture(row[at], `sample ${each.samples[m]}`, `${each.model}, sample ${each.samples[m]}, after ${each.updates[at]} updates`));
        return [element("h3", { textContent: each.model }), element("div", { className: "frames" }, ...tiles)];
      });
      const canvases = parts.flat().flatMap((part) => [...part.querySelectorAll("canvas")]);
      // Frames change when all of them are drawn, so that nothing flickers.
      Promise.all(canvases.map((canvas) => canvas.ready)).then(() => place.replaceChildren(...parts.flat()));
      const first = shown[0];
      if (!first) { name.textContent = elsewhere("No images were kept on the way", films); return; }
      const at = Math.min(t, first.updates.length - 1);
      const sigma = first.sigmas[at] === null ? "" : `, noise level about ${number(first.sigmas[at])}`;
      name.textContent = `after ${first.updates[at].toLocaleString("en-US")} updates${sigma}`;
      frame.setAttribute("aria-valuetext", name.textContent);
    };
    const stop = () => { clearInterval(timer); timer = null; play.textContent = "Play"; play.setAttribute("aria-pressed", "false"); };
    const step = () => {
      const last = Number(frame.value) >= Number(frame.max);
      if (last) { stop(); return; }
      frame.value = Number(frame.value) + 1;
      draw();
    };
    const change = () => {
      shown = films.filter((each) => !panels.length || each.panel === selectedName());
      frame.max = Math.max(0, ...shown.map((each) => each.updates.length - 1));
      play.disabled = !shown.length;
      draw();
    };
    play.addEventListener("click", () => {
      if (timer) { stop(); return; }
      if (Number(frame.value) >= Number(frame.max)) frame.value = 0;
      play.textContent = "Pause";
      play.setAttribute("aria-pressed", "true");
      // Who asks for less motion gets one image a second.
      timer = setInterval(step, still.matches ? 1000 : 120);
      draw();
    });
    frame.addEventListener("input", () => { stop(); draw(); });
    show("film-view");
    return { change };
  };

  // ------------------------------------------------------------------------------------------- eigenvectors

  const drawBases = () => {
    const [place, level] = ["bases", "level"].map(find);
    if (!place) return;
    show("bases-view");
    const here = data.bases.filter((each) => !panels.length || each.panel === selectedName());
    const before = level.value;
    level.replaceChildren(...here.map((each, i) => element("option", { value: i, textContent: panels.length ? number(each.sigma) : `${each.panel}, noise level ${number(each.sigma)}` })));
    if (before && Number(before) < here.length) level.value = before;
    const basis = here[Number(level.value) || 0];
    level.disabled = !basis;
    if (!basis) { place.textContent = elsewhere("No eigenvectors were computed", data.bases); return; }
    const strips = basis.models.flatMap((model) => {
      const inputs = [["x", basis.clean, "clean image"], ["y", basis.noisy, "noisy image"], ["f(y)", model.denoised, "denoised image"]];
      const tiles = inputs.map(([text, tile, label]) => picture(tile, text, `${model.model}: ${label}`));
      tiles[2].className = "apart";
      model.vectors.forEach((tile, k) => tiles.push(
        picture(tile, `${k + 1}: ${number(model.values[k])}`, `${model.model}: eigenvector ${k + 1} with eigenvalue ${number(model.values[k])}`)));
      const strip = element("div", { className: "strip", label: `eigenvectors of ${model.model}`, tabIndex: 0 }, ...tiles);
      strip.setAttribute("role", "group");
      return [element("p", { className: "soft", textContent: `${model.model}: x, y, f(y), and eigenvectors with their eigenvalues` }), strip];
    });
    place.replaceChildren(...strips);
  };

  // ------------------------------------------------------------------------------------------- tables

  // Saves a table of the page unpacked; a browser that cannot unpack saves the packed file.
  const unpack = async (event) => {
    if (!window.DecompressionStream) return;
    event.preventDefault();
    const link = event.currentTarget;
    const packed = Uint8Array.from(atob(link.href.split(",")[1]), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const url = URL.createObjectURL(await new Response(stream).blob());
    element("a", { href: url, download: link.download.replace(/\.gz$/, "") }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  };

  // ------------------------------------------------------------------------------------------- start

  const gallery = data.gallery ? makeGallery(data.gallery) : null;
  const film = data.films?.length ? makeFilm(data.films) : null;
  find("panel")?.addEventListener("input", (event) => select(Number(event.target.value)));
  find("level")?.addEventListener("input", drawBases);
  if (find("panel")) show("slider");
  if (panels.length) select(selected); else change();
  for (const link of document.querySelectorAll("a.table")) link.addEventListener("click", unpack);
  hosts.forEach((host) => near.observe(host));
  darkness.addEventListener("change", () => redraw(true));
  let waiting = null;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => redraw(false), 200); });
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
})();
