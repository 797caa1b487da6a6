const view = new Trace(document.getElementById("trace"));
view.add(...JSON.parse(document.getElementById("data").textContent));
view.show(0);
