package message

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
)

// Unverified reads a message without asking who sent it. It is for throw-away
// systems that show what happens when nobody verifies; what is no message at
// all becomes the payload as it stands.
func Unverified(raw []byte) Message {
	parts := bytes.Split(raw, []byte("."))
	if len(parts) != 3 {
		return Message{Payload: raw}
	}
	body, err := base64.RawURLEncoding.DecodeString(string(parts[1]))
	if err != nil {
		return Message{Payload: raw}
	}
	var m struct {
		ID      string          `json:"id"`
		Topic   string          `json:"topic"`
		Subject string          `json:"sub"`
		Payload json.RawMessage `json:"payload"`
	}
	if err := json.Unmarshal(body, &m); err != nil || len(m.Payload) == 0 {
		return Message{Payload: raw}
	}
	return Message{ID: m.ID, Topic: m.Topic, Subject: m.Subject, Payload: m.Payload}
}
