package control

import "strings"

// deviceName says in words for people what a User-Agent header claims to be:
// "Firefox on Linux". It is a claim, good for recognizing one's own devices and
// for nothing else; what it cannot tell it calls unknown.
func deviceName(agent string) string {
	if agent == "" {
		return "Unknown device"
	}
	browser, system := firstOf(agent, browsers()), firstOf(agent, systems())
	switch {
	case browser == "" && system == "":
		return firstProduct(agent)
	case browser == "":
		return "Unknown browser on " + system
	case system == "":
		return browser
	}
	return browser + " on " + system
}

type mark struct{ text, name string }

// browsers in the order in which their marks count: nearly all claim to be
// Safari, most of them Chrome too.
func browsers() []mark {
	return []mark{
		{"Edg/", "Edge"}, {"EdgA/", "Edge"}, {"EdgiOS/", "Edge"}, {"OPR/", "Opera"}, {"SamsungBrowser/", "Samsung Internet"},
		{"Vivaldi/", "Vivaldi"}, {"FxiOS/", "Firefox"}, {"Firefox/", "Firefox"}, {"CriOS/", "Chrome"}, {"HeadlessChrome/", "Headless Chrome"},
		{"Chromium/", "Chromium"}, {"Chrome/", "Chrome"}, {"Safari/", "Safari"}, {"curl/", "curl"},
	}
}

// systems likewise: Android says Linux, an iPhone says Mac OS X.
func systems() []mark {
	return []mark{
		{"Android", "Android"}, {"iPhone", "iPhone"}, {"iPad", "iPad"}, {"Windows NT", "Windows"}, {"CrOS", "ChromeOS"},
		{"Mac OS X", "macOS"}, {"Linux", "Linux"}, {"FreeBSD", "FreeBSD"}, {"OpenBSD", "OpenBSD"},
	}
}

func firstOf(agent string, marks []mark) string {
	for _, m := range marks {
		if strings.Contains(agent, m.text) {
			return m.name
		}
	}
	return ""
}

const maxProduct = 32 // bytes

// firstProduct is the leading product of an agent that is no known browser,
// such as "Shop" of "Shop/1.2 (build 7)".
func firstProduct(agent string) string {
	name, _, _ := strings.Cut(agent, "/")
	name = strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return -1
		}
		return r
	}, name)
	if name = strings.TrimSpace(name[:min(len(name), maxProduct)]); name == "" {
		return "Unknown device"
	}
	return name
}
