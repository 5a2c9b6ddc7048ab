// Line charts that can be read by pointer and keyboard, and enlarged: no library, nothing loaded.
{
  const SVG = document.querySelector("#legend svg").namespaceURI;
  const HEIGHT = 260;
  const MARGIN = { left: 56, right: 18, top: 8, bottom: 40 };
  const data = JSON.parse(document.getElementById("curves").textContent);
  const hidden = new Set();
  const charts = [];

  function element(name, attributes, parent, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  const short = (value) => String(Number(value.toPrecision(4)));

  // Steps of 1, 2 or 5 times a power of ten; no fractions where values are counts.
  function ticks([low, high], count, whole) {
    const rough = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    let step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
    if (whole) step = Math.max(1, Math.round(step));
    const first = Math.ceil(low / step - 1e-9);
    const total = Math.floor(high / step + 1e-9) - first + 1;
    return Array.from({ length: total }, (_, i) => Number(((first + i) * step).toPrecision(12)));
  }

  function powers([low, high]) {
    const factors = high / low > 1000 ? [1] : [1, 2, 5];
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      found.push(...factors.map((factor) => factor * 10 ** power));
    return found.filter((value) => value >= low && value <= high);
  }

  function nearest(sorted, value) {
    let best = 0;
    sorted.forEach((each, i) => {
      if (Math.abs(each - value) < Math.abs(sorted[best] - value)) best = i;
    });
    return best;
  }

  function extent(values) {
    const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
    return low < high ? [low, high] : [low - 0.5, high + 0.5];
  }

  class Chart {
    constructor(figure, { x, lines, log }) {
      Object.assign(this, { x, lines, log, box: figure.querySelector(".chart"), note: figure.querySelector("output") });
      this.reset = figure.querySelector(".reset");
      const sharing = data.charts.filter((chart) => chart.x === x);
      this.shown = this.full = extent(sharing.flatMap((chart) => chart.lines.flatMap((line) => line.at)));
      this.box.addEventListener("pointerdown", (event) => this.press(event));
      this.box.addEventListener("pointermove", (event) => this.point(this.value(event), event));
      this.box.addEventListener("pointerup", (event) => this.release(event));
      this.box.addEventListener("pointercancel", () => this.forget());
      this.box.addEventListener("pointerleave", () => this.point(null));
      this.box.addEventListener("dblclick", () => this.zoom(this.full));
      this.box.addEventListener("keydown", (event) => this.key(event));
      this.reset.addEventListener("click", () => this.zoom(this.full));
      new ResizeObserver(() => this.draw()).observe(this.box);
    }

    visible() {
      return this.lines.filter((line) => !hidden.has(line.group));
    }

    range() {
      const [from, to] = this.shown;
      const inside = this.visible().flatMap((line) =>
        line.at.flatMap((at, i) => (at >= from && at <= to ? [line.low[i], line.high[i]] : [])),
      );
      if (!inside.length) return this.log ? [0.1, 1] : [0, 1];
      const [low, high] = extent(inside);
      if (this.log && low > 0) return [low / 1.1, high * 1.1];
      return [low - 0.04 * (high - low), high + 0.04 * (high - low)];
    }

    draw() {
      const width = this.box.clientWidth;
      if (!width) return;
      const [from, to] = this.shown;
      const range = this.range();
      const scale = this.log ? Math.log : (value) => value;
      const [bottom, top] = range.map(scale);
      const inner = width - MARGIN.left - MARGIN.right;
      const high = HEIGHT - MARGIN.top - MARGIN.bottom;
      this.toX = (value) => MARGIN.left + ((value - from) / (to - from)) * inner;
      this.toY = (value) => MARGIN.top + (1 - (scale(value) - bottom) / (top - bottom)) * high;
      this.fromX = (place) => from + ((place - MARGIN.left) / inner) * (to - from);
      this.box.replaceChildren();
      const svg = element("svg", { width, height: HEIGHT, "aria-hidden": "true" }, this.box);
      this.axes(svg, width, range);
      const clip = `${this.box.id}-clip`;
      const area = { x: MARGIN.left, y: MARGIN.top, width: inner, height: high };
      element("rect", area, element("clipPath", { id: clip }, svg));
      const plot = element("g", { "clip-path": `url(#${clip})` }, svg);
      this.visible().forEach((line) => this.line(plot, line));
      this.cursor = element("g", {}, plot);
      this.reset.hidden = this.shown === this.full;
    }

    axes(svg, width, range) {
      const bottom = HEIGHT - MARGIN.bottom;
      for (const value of this.log ? powers(range) : ticks(range, 6)) {
        const y = this.toY(value);
        element("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y, class: "grid" }, svg);
        element("text", { x: MARGIN.left - 6, y: y + 4, "text-anchor": "end" }, svg, short(value));
      }
      for (const value of ticks(this.shown, width / 80, this.x === "Round")) {
        const x = this.toX(value);
        element("line", { x1: x, x2: x, y1: MARGIN.top, y2: bottom, class: "grid" }, svg);
        element("text", { x, y: bottom + 16, "text-anchor": "middle" }, svg, short(value));
      }
      const middle = (width + MARGIN.left - MARGIN.right) / 2;
      element("text", { x: middle, y: HEIGHT - 6, "text-anchor": "middle" }, svg, this.x);
    }

    line(plot, { at, low, mean, high, group }) {
      const { colour, dash } = data.looks[group];
      const path = (values) => at.map((x, i) => `${this.toX(x).toFixed(1)},${this.toY(values[i]).toFixed(1)}`);
      const stroke = { fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dash };
      if (low.some((value, i) => value < high[i]))
        element("polygon", { points: [...path(low), ...path(high).reverse()].join(" "), fill: colour, opacity: 0.18 }, plot);
      element("polyline", { points: path(mean).join(" "), ...stroke }, plot);
      if (at.length === 1) element("circle", { cx: this.toX(at[0]), cy: this.toY(mean[0]), r: 4, fill: colour }, plot);
    }

    value(event) {
      return this.fromX(event.clientX - this.box.getBoundingClientRect().left);
    }

    // Mark a place of the x axis and say what the lines are there; null: nowhere.
    point(value, event) {
      this.place = value;
      this.cursor?.replaceChildren();
      this.note.replaceChildren();
      if (value === null || !this.cursor) return;
      const x = Math.min(Math.max(value, this.shown[0]), this.shown[1]);
      this.place = x;
      const ends = { y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom };
      element("line", { x1: this.toX(x), x2: this.toX(x), ...ends, class: "cursor" }, this.cursor);
      if (this.from !== undefined && event) {
        const [left, right] = [this.from, x].sort((a, b) => a - b).map(this.toX);
        const area = { x: left, y: MARGIN.top, width: right - left, height: ends.y2 - MARGIN.top };
        element("rect", { ...area, class: "chosen" }, this.cursor);
      }
      this.say(`${this.x} ${short(x)}`);
      for (const line of this.visible()) {
        if (x < line.at[0] || x > line.at[line.at.length - 1]) continue;
        const i = nearest(line.at, x);
        const { colour } = data.looks[line.group];
        element("circle", { cx: this.toX(line.at[i]), cy: this.toY(line.mean[i]), r: 4, fill: colour }, this.cursor);
        const spread = line.low[i] < line.high[i] ? ` (${short(line.low[i])} to ${short(line.high[i])})` : "";
        this.say(`${data.labels[line.group]}: ${short(line.mean[i])}${spread}`, colour);
      }
    }

    say(text, colour) {
      const line = document.createElement("div");
      line.textContent = text;
      if (colour) line.style.borderLeft = `.8rem solid ${colour}`;
      this.note.append(line);
    }

    press(event) {
      if (event.button) return;
      this.from = this.value(event);
      this.box.setPointerCapture(event.pointerId);
    }

    release(event) {
      const to = this.value(event);
      const moved = this.from !== undefined && Math.abs(this.toX(to) - this.toX(this.from)) > 8;
      const chosen = [this.from, to].sort((a, b) => a - b);
      this.forget();
      if (moved) this.zoom(chosen);
    }

    forget() {
      this.from = undefined;
    }

    key(event) {
      const [from, to] = this.shown;
      const at = this.place ?? (from + to) / 2;
      const step = (to - from) / 50;
      const actions = {
        ArrowLeft: () => this.point(at - step),
        ArrowRight: () => this.point(at + step),
        "+": () => this.zoom([at - (at - from) / 2, at + (to - at) / 2]),
        "-": () => this.zoom([at - (at - from) * 2, at + (to - at) * 2]),
        Escape: () => this.zoom(this.full),
      };
      if (!(event.key in actions)) return;
      event.preventDefault();
      actions[event.key]();
      if (!event.key.startsWith("Arrow")) this.point(at);
    }

    // Show a part of the x axis, in all charts that share it.
    zoom([from, to]) {
      for (const chart of charts.filter((each) => each.x === this.x)) {
        const [least, most] = chart.full;
        const part = [Math.max(from, least), Math.min(to, most)];
        const all = part[0] <= least && part[1] >= most;
        chart.shown = all || part[0] >= part[1] ? chart.full : part;
        chart.draw();
      }
    }
  }

  document.querySelectorAll("figure[data-chart]").forEach((figure) => {
    charts.push(new Chart(figure, data.charts[Number(figure.dataset.chart)]));
  });
  document.querySelectorAll("#legend button").forEach((button, group) => {
    button.addEventListener("click", () => {
      if (!hidden.delete(group)) hidden.add(group);
      button.setAttribute("aria-pressed", String(!hidden.has(group)));
      charts.forEach((chart) => chart.draw());
    });
  });
}
