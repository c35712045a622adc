package guide

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rampart-security/rampart/network/waf"
)

// prose is what people write into a field for a text, a sentence to a line.
var prose = slices.DeleteFunc(strings.Split(`
Lunch with Anna, 12 May: we talked about the budget & plans.
Please call me back tomorrow at 10:30, I'm in the office until noon.
The invoice no. 2024/117 over €1,250.00 has been paid - thank you!
Hi Tom, could you send the slides to anna.miller@example.com before Friday?
See https://www.example.com/shop/items?id=42&lang=en for the details.
Mrs. O'Neill asked whether "express" delivery is possible; I said yes.
50% off on all chairs (only this week).
Our new address: 12 Baker Street, London NW1 6XE.
We need 3 x A4 paper, 2 x ink (black) and 1 stapler.
Don't forget: bring your own cup, it's better for the environment.
It was great to meet you in person; let's do it again soon :-)
Order #48213 arrived, but one glass was broken. Can I get a refund?
The meeting is on 2024-06-03 from 9 to 11 a.m. in room 4.2.
Ask for the manager and select the second option from the menu.
What's the difference between plan A and plan B?
I left the keys with the neighbour (Mr. Smith, 2nd floor).
Dear Sir or Madam, I would like to cancel my subscription as of 31 July.
Weather: rain, wind & 14 °C. We'll stay at home and drop the trip.
Union dues for March: £35.20, paid by card.
He said: "If it works, don't touch it."
My phone is +44 20 7946 0958, or just write to bob@example.org.
Research & Development wants a table for eight people at 7 p.m.
You can find me at www.example.net/~carol or on the second floor.
The price is $99.99 (incl. 20% VAT) and shipping takes 3-5 days.
Thanks!!! That was really fast...
1) Wash the apples 2) cut them 3) bake for 40 min at 180 °C
Yes/no? Please answer by Monday, otherwise we'll go ahead.
Update: the train is late, I'll be there at half past six or so.
Please group the items by colour and order them by size.
C'est la vie, as they say in Paris; see you there, Marie.
Can we insert a coffee break between the two talks?
This and that, here or there - it's all the same to me.
Bob's & Jane's wedding: gifts like books and wine are welcome.
Size: 40 cm x 60 cm, weight: 2.5 kg, colour: dark blue.
We've moved the file to the other cabinet; let me know if it's missing.
Is the shop open on Sunday? If not, when can I come by?
Payment reference: RF18 5390 0754 7034
Re: Your letter of 3 April - I agree with points 1, 2 and 4.
The teacher's note says: read pages 10-25 and write a summary.
For the party: 24 bottles of water, 12 of juice, some cheese and bread.
Mittagessen mit Jürgen, 12. Mai: Wir haben über das Budget & die Pläne gesprochen.
Bitte rufen Sie mich morgen um 10:30 Uhr zurück.
Die Rechnung Nr. 2024/117 über 1.250,00 € wurde bezahlt - vielen Dank!
Können Sie die Unterlagen bis Freitag an anna.mueller@example.de schicken?
Unsere neue Anschrift: Hauptstraße 12, 50667 Köln.
Frau O'Neill fragt, ob eine Lieferung per „Express“ möglich ist; ich habe ja gesagt.
50 % Rabatt auf alle Stühle (nur diese Woche).
Wir brauchen 3 x Papier, 2 x Tinte (schwarz) und 1 Locher.
Das Treffen ist am 03.06.2024 von 9 bis 11 Uhr in Raum 4.2.
Er sagte: „Wenn es läuft, fass es nicht an.“
Siehe https://www.example.de/laden/artikel?nr=42 für Einzelheiten.
Vielen Dank für die schnelle Antwort! Liebe Grüße aus Zürich, Sören
Bestellung #48213 ist da, aber ein Glas war kaputt. Was nun?
Der Preis beträgt 99,99 € (inkl. 19 % MwSt.), der Versand dauert 3-5 Tage.
Hiermit kündige ich mein Abonnement zum 31. Juli.
Ich bin bis Mittag im Büro, danach mobil: +49 221 123456.
Ist der Laden am Sonntag offen? Wenn nicht, wann kann ich vorbeikommen?
Kinder unter 6 Jahren frei; Hunde & Katzen nur an der Leine.
Äpfel waschen, schälen, schneiden und 40 Minuten bei 180 °C backen.
Ruf mich an, sobald du da bist - ich hole dich ab!
Déjeuner avec Anna le 12 mai : nous avons parlé du budget & des projets.
Merci de me rappeler demain à 10h30, je suis au bureau jusqu'à midi.
La facture n° 2024/117 d'un montant de 1 250,00 € a été réglée - merci !
Pouvez-vous envoyer les documents à anna.martin@example.fr avant vendredi ?
Notre nouvelle adresse : 12, rue de l'Église, 75015 Paris.
Il a dit : « Si ça marche, n'y touche pas. »
50 % de remise sur toutes les chaises (cette semaine seulement).
Voir https://www.example.fr/boutique/article?no=42 pour plus de détails.
La réunion a lieu le 3 juin de 9 h à 11 h en salle 4.2.
J'ai laissé les clés chez le voisin (M. Dupont, 2e étage).
Qu'est-ce qu'il y a à manger ce soir ? Peut-être une soupe à l'oignon.
N'oublie pas : c'est l'anniversaire de François, d'accord ?
Le prix est de 99,99 € (TVA comprise), la livraison prend 3 à 5 jours.
Je résilie mon abonnement à compter du 31 juillet.
Bonne journée et à bientôt, l'équipe de l'hôtel « Les Pins »
Commande n° 48213 reçue, mais un verre était cassé. Que faire ?
Elle s'appelle Zoé et habite près de la gare d'Aix-en-Provence.
Oui/non ? Répondez d'ici lundi, s'il vous plaît.
`, "\n"), func(s string) bool { return s == "" })

// guides are engine and guide of each level, made when first asked for.
var guides = [...]func() (*waf.Engine, *Guide){1: fixture, 2: level(2), 3: level(3), 4: level(4)}

func level(paranoia int) func() (*waf.Engine, *Guide) {
	return sync.OnceValues(func() (*waf.Engine, *Guide) {
		e, err := waf.New(waf.Options{Paranoia: paranoia})
		if err != nil {
			panic(err)
		}
		g, err := New(e.Rules())
		if err != nil {
			panic(err)
		}
		return e, g
	})
}

// blame lists the rules of which the guide cannot tell that they do not match s
// as a value of the body.
func (g *Guide) blame(s string) []int {
	var out []int
	for _, k := range g.post.base.checks {
		if !g.clean(&class{checks: []*check{k}}, s, newScratch()) {
			out = append(out, k.rule)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TestProse: how many of these sentences are spared the engine at each level.
// Where the engine finds nothing in a sentence that went to it, the trip was
// needless: the rules that caused it are told.
func TestProse(t *testing.T) {
	for paranoia, least := range map[int]int{1: 70, 2: 0, 3: 0, 4: 0} {
		e, g := guides[paranoia]()
		clean, found := 0, 0
		needless := map[int]int{}
		for _, s := range prose {
			r := typed()
			note(s)(r)
			if g.Clean(r) {
				clean++
				continue
			}
			v, err := e.Inspect(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if len(v.Findings) > 0 {
				found++
				continue
			}
			for _, id := range g.blame(s) {
				needless[id]++
			}
		}
		t.Logf("level %d: of %d sentences %d are clean and the engine finds something in %d; needless trips by rule: %v",
			paranoia, len(prose), clean, found, needless)
		if clean < least {
			t.Errorf("level %d: %d sentences are clean, want %d", paranoia, clean, least)
		}
	}
}
