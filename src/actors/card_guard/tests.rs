pub struct Feed;
impl actix::Actor for Feed {
    type Context = actix::Context<Self>;
}
impl actix::Handler<super::DecisionMade> for Feed {
    type Result = ();
    fn handle(&mut self, _: super::DecisionMade, _: &mut Self::Context) {}
}
impl actix::Handler<super::AlertChanged> for Feed {
    type Result = ();
    fn handle(&mut self, _: super::AlertChanged, _: &mut Self::Context) {}
}
